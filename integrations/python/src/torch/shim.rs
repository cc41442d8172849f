//! What PyTorch's stable C ABI gives, looked up in the libraries that Python has loaded: nothing of PyTorch is needed
//! to build this. Declarations are those of `torch/csrc/inductor/aoti_torch/c/shim.h` (`aoti_torch_*`, since PyTorch
//! 2.7) and `torch/csrc/stable/c/shim.h` (`torch_*`, since 2.10).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::slice;
use std::sync::OnceLock;

use crate::dtype::Dtype;
use crate::view::View;

/// `StableIValue`: a tensor is a handle that is owned, integers and doubles are their bits, and an optional value is
/// NULL or a pointer to one of these.
pub(super) type Value = u64;

/// A kernel owns the values that it finds, and leaves results that it owns no longer. It may throw.
pub(super) type Kernel = unsafe extern "C-unwind" fn(*mut Value, u64, u64);

/// An `at::Tensor*`.
type Handle = *mut c_void;
type Library = *mut c_void;
/// 0 is success.
type Status = i32;

macro_rules! shim {
    ($($name:ident: fn($($argument:ty),*) -> $result:ty;)*) => {
        /// The functions of every PyTorch from 2.10 on.
        #[derive(Debug)]
        pub(super) struct Functions { $(pub(super) $name: unsafe extern "C" fn($($argument),*) -> $result,)* }

        impl Functions {
            /// # Safety
            /// - The library is libtorch_cpu.
            unsafe fn find(library: *mut c_void) -> Result<Self, String> {
                Ok(Self { $($name: {
                    let p = find(library, concat!(stringify!($name), "\0"));
                    if p.is_null() {
                        return Err(concat!("this PyTorch has no ", stringify!($name), ", expected 2.10 or later").into());
                    }
                    // SAFETY: the function of this name has this type.
                    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C" fn($($argument),*) -> $result>(p) }
                },)* })
            }
        }
    };
}

shim! {
    aoti_torch_library_init_fragment: fn(*const c_char, *const c_char, u32, *mut Library) -> Status;
    aoti_torch_library_init_impl: fn(*const c_char, *const c_char, *const c_char, u32, *mut Library) -> Status;
    aoti_torch_library_def: fn(Library, *const c_char) -> Status;
    aoti_torch_library_impl: fn(Library, *const c_char, Kernel) -> Status;
    aoti_torch_call_dispatcher: fn(*const c_char, *const c_char, *mut Value) -> Status;
    aoti_torch_delete_tensor_object: fn(Handle) -> Status;
    aoti_torch_new_tensor_handle: fn(Handle, *mut Handle) -> Status;
    aoti_torch_get_data_ptr: fn(Handle, *mut *mut c_void) -> Status;
    aoti_torch_get_dim: fn(Handle, *mut i64) -> Status;
    aoti_torch_get_numel: fn(Handle, *mut i64) -> Status;
    aoti_torch_get_sizes: fn(Handle, *mut *const i64) -> Status;
    aoti_torch_get_strides: fn(Handle, *mut *const i64) -> Status;
    aoti_torch_get_dtype: fn(Handle, *mut i32) -> Status;
    aoti_torch_get_layout: fn(Handle, *mut i32) -> Status;
    aoti_torch_layout_strided: fn() -> i32;
    aoti_torch_empty_strided: fn(i64, *const i64, *const i64, i32, i32, i32, *mut Handle) -> Status;
    aoti_torch_dtype_float32: fn() -> i32;
    aoti_torch_dtype_float64: fn() -> i32;
    aoti_torch_dtype_float16: fn() -> i32;
    aoti_torch_dtype_bfloat16: fn() -> i32;
    aoti_torch_device_type_cpu: fn() -> i32;
    aoti_torch_grad_mode_is_enabled: fn() -> bool;
    torch_get_num_threads: fn(*mut u32) -> Status;
}

/// What the kernels call.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) functions: Functions,
    /// Throws if its condition is false.
    check: unsafe extern "C-unwind" fn(bool, *const c_char, *const c_char, u32, *const c_char),
    /// The message of the last exception that a function of the shim has caught. Since PyTorch 2.13.
    what: Option<unsafe extern "C" fn() -> *const c_char>,
    /// Frees a value that an optional one points to.
    delete: unsafe extern "C" fn(*mut Value),
    /// `c10::TensorImpl::requires_grad() const`. The stable ABI has nothing in its place: without it, every call where
    /// gradients are enabled goes by Python's autograd.
    requires_grad: Option<unsafe extern "C" fn(*mut c_void) -> bool>,
    /// `torch::autograd::ForwardADLevel::has_any_level()`. Without it, as without `requires_grad`.
    has_any_level: Option<unsafe extern "C" fn() -> bool>,
    /// `c10::impl::TorchDispatchModeTLS::any_modes_set(bool)`, `at::impl::tensor_has_dispatch(Tensor)` and
    /// `at::native::is_neg(Tensor)`. Without them, every call goes by the dispatcher again, which knows.
    any_modes_set: Option<unsafe extern "C" fn(bool) -> bool>,
    tensor_has_dispatch: Option<unsafe extern "C" fn(Handle) -> bool>,
    is_neg: Option<unsafe extern "C" fn(Handle) -> bool>,
    /// The numbers of the types, in the order of `Dtype::ALL`.
    dtypes: [i32; 4],
    cpu: i32,
    strided: i32,
}

#[cfg(unix)]
mod system {
    use super::*;

    unsafe extern "C" {
        fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
        fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    const RTLD_NOW: c_int = 2;
    #[cfg(target_os = "macos")]
    const RTLD_NOLOAD: c_int = 0x10;
    #[cfg(not(target_os = "macos"))]
    const RTLD_NOLOAD: c_int = 4;

    /// A library that has been loaded, or NULL.
    pub(super) fn loaded(path: &CStr) -> *mut c_void {
        // SAFETY: the path is one. Nothing is loaded.
        unsafe { dlopen(path.as_ptr(), RTLD_NOW | RTLD_NOLOAD) }
    }

    /// # Safety
    /// - The library is one that has been loaded.
    pub(super) unsafe fn symbol(library: *mut c_void, name: *const c_char) -> *mut c_void {
        // SAFETY: the caller's duty.
        unsafe { dlsym(library, name) }
    }
}

#[cfg(windows)]
mod system {
    use super::*;

    unsafe extern "system" {
        fn GetModuleHandleA(path: *const c_char) -> *mut c_void;
        fn GetProcAddress(library: *mut c_void, name: *const c_char) -> *mut c_void;
    }

    /// A library that has been loaded, or NULL.
    pub(super) fn loaded(path: &CStr) -> *mut c_void {
        // SAFETY: the path is one. Nothing is loaded.
        unsafe { GetModuleHandleA(path.as_ptr()) }
    }

    /// # Safety
    /// - The library is one that has been loaded.
    pub(super) unsafe fn symbol(library: *mut c_void, name: *const c_char) -> *mut c_void {
        // SAFETY: the caller's duty.
        unsafe { GetProcAddress(library, name) }
    }
}

/// A symbol of a library by its name, which ends with a zero; or NULL.
fn find(library: *mut c_void, name: &str) -> *mut c_void {
    assert!(name.ends_with('\0'), "names end with a zero");
    // SAFETY: libraries are found by `system::loaded`, and are not NULL.
    unsafe { system::symbol(library, name.as_ptr().cast()) }
}

static SHIM: OnceLock<Shim> = OnceLock::new();

/// Finds the shim in the libraries at these paths, which have been loaded.
pub(super) fn open(libtorch_cpu: &CStr, libc10: &CStr) -> Result<&'static Shim, String> {
    if let Some(shim) = SHIM.get() {
        return Ok(shim);
    }
    let loaded = |path: &CStr| {
        let library = system::loaded(path);
        if library.is_null() { Err(format!("{} is not loaded", path.to_string_lossy())) } else { Ok(library) }
    };
    let (torch, c10) = (loaded(libtorch_cpu)?, loaded(libc10)?);
    // SAFETY: functions of these names have these types.
    let shim = unsafe {
        let functions = Functions::find(torch)?;
        let expect = |name: &str| {
            let p = find(torch, name);
            if p.is_null() { Err(format!("this PyTorch has no {}", name.trim_end_matches('\0'))) } else { Ok(p) }
        };
        // Before PyTorch 2.13 values are freed as C++ frees them.
        let delete = expect("torch_delete_stable_ivalue\0").or_else(|_| expect("_ZdlPv\0"))?;
        let requires_grad = find(c10, "_ZNK3c1010TensorImpl13requires_gradEv\0");
        let any_modes_set = find(c10, "_ZN3c104impl20TorchDispatchModeTLS13any_modes_setEb\0");
        let has_any_level = find(torch, "_ZN5torch8autograd14ForwardADLevel13has_any_levelEv\0");
        let tensor_has_dispatch = find(torch, "_ZN2at4impl19tensor_has_dispatchERKNS_6TensorE\0");
        let is_neg = find(torch, "_ZN2at6native6is_negERKNS_6TensorE\0");
        let dtypes = [
            (functions.aoti_torch_dtype_float32)(),
            (functions.aoti_torch_dtype_float64)(),
            (functions.aoti_torch_dtype_float16)(),
            (functions.aoti_torch_dtype_bfloat16)(),
        ];
        Shim {
            check: std::mem::transmute::<
                *mut c_void,
                unsafe extern "C-unwind" fn(bool, *const c_char, *const c_char, u32, *const c_char),
            >(expect("aoti_torch_check\0")?),
            what: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn() -> *const c_char>>(find(
                torch,
                "torch_exception_get_what_without_backtrace\0",
            )),
            delete: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*mut Value)>(delete),
            requires_grad: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(*mut c_void) -> bool>>(
                requires_grad,
            ),
            has_any_level: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn() -> bool>>(has_any_level),
            tensor_has_dispatch: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(Handle) -> bool>>(
                tensor_has_dispatch,
            ),
            is_neg: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(Handle) -> bool>>(is_neg),
            any_modes_set: std::mem::transmute::<*mut c_void, Option<unsafe extern "C" fn(bool) -> bool>>(
                any_modes_set,
            ),
            cpu: (functions.aoti_torch_device_type_cpu)(),
            strided: (functions.aoti_torch_layout_strided)(),
            dtypes,
            functions,
        }
    };
    Ok(SHIM.get_or_init(|| shim))
}

/// The shim. Kernels run after it has been found.
#[inline(always)]
pub(super) fn shim() -> &'static Shim {
    SHIM.get().expect("kernels are registered with it")
}

impl Shim {
    /// The value of an optional one, which is freed.
    ///
    /// # Safety
    /// - The value is an optional one, and is taken once.
    pub(super) unsafe fn take(&self, value: Value) -> Option<Value> {
        let p = value as *mut Value;
        // SAFETY: the caller's duty.
        (!p.is_null()).then(|| unsafe {
            let inner = *p;
            (self.delete)(p);
            inner
        })
    }

    /// Whether a tensor requires a gradient, as far as that can be known.
    ///
    /// # Safety
    /// - The value is a tensor.
    pub(super) unsafe fn requires_grad(&self, tensor: Value) -> bool {
        // SAFETY: an at::Tensor is one pointer, to its implementation.
        self.requires_grad.is_none_or(|f| unsafe { f(*(tensor as *const *mut c_void)) })
    }

    /// Whether something in Python looks at what operators are called.
    pub(super) fn any_modes_set(&self) -> bool {
        // SAFETY: the function takes nothing but whether to leave out those of PyTorch itself.
        self.any_modes_set.is_none_or(|f| unsafe { f(false) })
    }

    /// Whether tensors may have derivatives of forward mode.
    pub(super) fn has_forward_mode(&self) -> bool {
        // SAFETY: the function takes nothing.
        self.has_any_level.is_none_or(|f| unsafe { f() })
    }

    /// Whether a tensor is what its memory says: it has memory, unlike fake ones, is not the negative of that, and is
    /// none of a class of Python that wants to see operators.
    ///
    /// # Safety
    /// - The value is a tensor.
    pub(super) unsafe fn is_plain(&self, tensor: Value) -> bool {
        let (mut data, mut len, tensor) = (null_mut(), 0, tensor as Handle);
        // SAFETY: the caller's duty. A reference to a tensor is a pointer to it.
        unsafe {
            (self.functions.aoti_torch_get_numel)(tensor, &raw mut len);
            let status = (self.functions.aoti_torch_get_data_ptr)(tensor, &raw mut data);
            status == 0
                && (len == 0 || !data.is_null())
                && !self.is_neg.is_none_or(|f| f(tensor))
                && !self.tensor_has_dispatch.is_none_or(|f| f(tensor))
        }
    }

    /// Calls an operator, which takes the values on the stack and leaves its results there. Gives the message of an
    /// exception.
    ///
    /// # Safety
    /// - The operator takes such values.
    pub(super) unsafe fn call(&self, name: &CStr, stack: *mut Value) -> Result<(), String> {
        // SAFETY: the caller's duty.
        unsafe {
            if (self.functions.aoti_torch_call_dispatcher)(name.as_ptr(), c"".as_ptr(), stack) == 0 {
                return Ok(());
            }
            let what = self.what.map_or(null(), |what| what());
            Err(if what.is_null() {
                format!("{} failed", name.to_string_lossy())
            } else {
                CStr::from_ptr(what).to_string_lossy().into_owned()
            })
        }
    }

    /// Throws an exception of C++, which becomes a RuntimeError.
    ///
    /// # Safety
    /// - The caller has nothing to drop, and is called by what catches exceptions.
    pub(super) unsafe fn throw(&self, message: &CStr) {
        // SAFETY: the caller's duty.
        unsafe { (self.check)(false, c"lanenorm".as_ptr(), c"lanenorm".as_ptr(), 0, message.as_ptr()) };
    }

    /// The threads that PyTorch would use.
    pub(super) fn threads(&self) -> usize {
        let mut threads = 1;
        // SAFETY: the number is there.
        unsafe { (self.functions.torch_get_num_threads)(&raw mut threads) };
        (threads as usize).max(1)
    }
}

/// A tensor that is owned.
#[derive(Debug)]
pub(super) struct Tensor {
    handle: Handle,
    /// `None` for a type or a layout that nothing here takes.
    dtype: Option<Dtype>,
    data: *mut c_void,
    /// Sizes and strides have 64 bits, as usize and isize. They belong to the tensor.
    dim: usize,
    sizes: *const usize,
    strides: *const isize,
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: the handle is this tensor's own.
        unsafe { (shim().functions.aoti_torch_delete_tensor_object)(self.handle) };
    }
}

impl Tensor {
    /// The tensor that a value is.
    ///
    /// # Safety
    /// - The value is a tensor, and is taken once.
    pub(super) unsafe fn new(value: Value) -> Self {
        let (shim, handle) = (shim(), value as Handle);
        let functions = &shim.functions;
        let (mut number, mut layout, mut dim) = (0, 0, 0);
        let (mut data, mut sizes, mut strides) = (null_mut(), null(), null());
        // SAFETY: the caller's duty.
        let is_strided = unsafe {
            (functions.aoti_torch_get_dtype)(handle, &raw mut number);
            (functions.aoti_torch_get_dim)(handle, &raw mut dim);
            (functions.aoti_torch_get_layout)(handle, &raw mut layout);
            layout == shim.strided
                && (functions.aoti_torch_get_data_ptr)(handle, &raw mut data) == 0
                && (functions.aoti_torch_get_sizes)(handle, &raw mut sizes) == 0
                && (functions.aoti_torch_get_strides)(handle, &raw mut strides) == 0
        };
        let at = shim.dtypes.iter().position(|&dtype| is_strided && dtype == number);
        let (dtype, dim) = (at.map(|at| Dtype::ALL[at]), if sizes.is_null() { 0 } else { dim as usize });
        Self { handle, dtype, data, dim, sizes: sizes.cast(), strides: strides.cast() }
    }

    /// A new one, whose elements follow one another.
    pub(super) fn empty(sizes: &[usize], dtype: Dtype) -> Result<Self, String> {
        let shim = shim();
        let at = Dtype::ALL.iter().position(|&other| other == dtype).expect("all are there");
        let (mut strides, mut next) = ([1i64; MOST], 1);
        if sizes.len() > MOST {
            return Err(format!("a tensor has {} dimensions, expected at most {MOST}", sizes.len()));
        }
        for (stride, &size) in strides[..sizes.len()].iter_mut().zip(sizes).rev() {
            *stride = next;
            next *= size.max(1) as i64;
        }
        let mut handle = null_mut();
        let (dim, sizes, strides) = (sizes.len() as i64, sizes.as_ptr().cast(), strides.as_ptr());
        // SAFETY: there are as many sizes and strides, and what is made is a tensor.
        unsafe {
            let (dtype, cpu) = (shim.dtypes[at], shim.cpu);
            match (shim.functions.aoti_torch_empty_strided)(dim, sizes, strides, dtype, cpu, 0, &raw mut handle) {
                0 => Ok(Self::new(handle as Value)),
                _ => Err("there is no memory for a result".into()),
            }
        }
    }

    /// Gives the tensor away.
    pub(super) fn into_value(self) -> Value {
        let value = self.handle as Value;
        std::mem::forget(self);
        value
    }

    /// An error if the type is one that nothing here takes.
    pub(super) fn dtype(&self, what: &str) -> Result<Dtype, String> {
        self.dtype.ok_or_else(|| format!("{what} is no strided tensor of float32, float64, float16 or bfloat16"))
    }

    pub(super) fn shape(&self) -> &[usize] {
        if self.dim == 0 {
            return &[];
        }
        // SAFETY: the tensor has as many sizes, which nobody changes.
        unsafe { slice::from_raw_parts(self.sizes, self.dim) }
    }

    /// The tensor, whose type must be one of these.
    pub(super) fn view(&self) -> View<'_> {
        let (dtype, shape) = (self.dtype.expect("the type has been checked"), self.shape());
        // SAFETY: the tensor has as many strides, which nobody changes.
        let strides = if self.dim == 0 { &[] } else { unsafe { slice::from_raw_parts(self.strides, self.dim) } };
        View { data: self.data, dtype, shape, strides, step: dtype.size() }
    }

    /// A tensor with the same elements that follow one another.
    pub(super) fn contiguous(&self) -> Result<Self, String> {
        let mut handle = null_mut();
        // SAFETY: the tensor is one. The operator takes a tensor and a memory format, of which 0 is the contiguous one.
        unsafe {
            if (shim().functions.aoti_torch_new_tensor_handle)(self.handle, &raw mut handle) != 0 {
                return Err("a tensor cannot be copied".into());
            }
            let mut stack = [handle as Value, 0];
            shim().call(c"aten::contiguous", stack.as_mut_ptr())?;
            Ok(Self::new(stack[0]))
        }
    }
}

/// The dimensions of a tensor that is made here.
const MOST: usize = 64;
