//! Several dimensions that are normalized as one, like `PyTorch`'s `normalized_shape` and ONNX's `axis`.

use lanenorm::{Error, LayerNorm, RmsNorm};

const EPS: f64 = 1e-5;

/// The columns of both operations.
fn cols(shape: &[usize]) -> Result<usize, Error> {
    let cols = LayerNorm::with_normalized_shape(shape, EPS).map(|plan| plan.cols());
    assert_eq!(RmsNorm::with_normalized_shape(shape, EPS).map(|plan| plan.cols()), cols);
    cols
}

fn cols_from(shape: &[usize], axis: isize) -> Result<usize, Error> {
    let cols = LayerNorm::with_axis(shape, axis, EPS).map(|plan| plan.cols());
    assert_eq!(RmsNorm::with_axis(shape, axis, EPS).map(|plan| plan.cols()), cols);
    cols
}

#[test]
fn the_dimensions_are_flattened() {
    assert_eq!(cols(&[768]), Ok(768));
    assert_eq!(cols(&[3, 5, 7]), Ok(105));
    assert_eq!(cols(&[]), Ok(1));
    assert_eq!(cols(&[usize::MAX, 2, 0]), Ok(0));
    for (axis, expected) in [(-1, 7), (2, 7), (-2, 35), (1, 35), (-3, 105), (0, 105)] {
        assert_eq!(cols_from(&[3, 5, 7], axis), Ok(expected), "axis {axis}");
    }
    let x: Vec<f32> = (0..210u16).map(|i| f32::from(i * 37 % 101)).collect();
    let (mut y, mut expected) = (vec![0.0; 210], vec![0.0; 210]);
    let plan = LayerNorm::with_axis(&[2, 3, 5, 7], 1, EPS).expect("a valid axis");
    plan.forward(&x, None, None, &mut y).expect("two rows");
    lanenorm::layer_norm(&x, 105, None, None, EPS, &mut expected).expect("two rows");
    assert_eq!(y, expected);
}

#[test]
fn what_is_no_shape_or_axis_is_refused() {
    assert_eq!(cols(&[usize::MAX, 2]), Err(Error::ShapeOverflow { cols: usize::MAX, dim: 2 }));
    for (shape, axis) in [(&[3, 5, 7][..], 3), (&[3, 5, 7], -4), (&[3, 5, 7], isize::MIN), (&[], 0), (&[], -1)] {
        let refused = cols_from(shape, axis);
        assert_eq!(refused, Err(Error::Axis { axis, rank: shape.len() }));
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(&axis.to_string()) && message.contains(&shape.len().to_string()), "{message}");
    }
    let message = cols(&[1 << 40, 1 << 40]).unwrap_err().to_string();
    assert!(message.contains("1099511627776 times 1099511627776"), "{message}");
    assert!(LayerNorm::with_normalized_shape(&[4], -1.0).is_err());
}
