#![no_main]

libfuzzer_sys::fuzz_target!(|input: lanenorm_fuzz::quantize::Input| input.run());
