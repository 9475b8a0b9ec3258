use super::*;
use crate::numerics::{dropout_hash, dropout_keys};
use crate::{Graph, TensorId};

/// Dropout ([Srivastava et al. 2014](https://jmlr.org/papers/v15/srivastava14a.html)): each element becomes 0 with
/// probability p, and `x / (1 - p)` else.
///
/// Operands: x of F32, seed `[2]` of I32. Result: the shape of x. Which elements are dropped follows from seed, stream and
/// the element's index alone (docs/numerics.md), so the gradient drops the same ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Dropout {
    /// The probability, at least 0 and below 1. With 0 the result is x.
    pub p: f32,
    /// Tells the dropouts of one graph apart.
    pub stream: u32,
}

impl Dropout {
    /// An element is dropped where its hash is below this.
    pub fn threshold(&self) -> u32 {
        (f64::from(self.p) * 4_294_967_296.0) as u32
    }
    /// What the others are multiplied by.
    pub fn factor(&self) -> f32 {
        1.0 / (1.0 - self.p)
    }
}

impl OpDef for Dropout {
    const NAME: &'static str = "dropout";

    fn infer(&self, src: &[TensorDesc]) -> Result<TensorDesc, ShapeError> {
        let [x, seed] = operands(Self::NAME, src)?;
        f32_rows(Self::NAME, 0, &x)?;
        indices(Self::NAME, 1, &seed, &[2])?;
        if !(0.0..1.0).contains(&self.p) {
            let what = format!("the probability {} is not at least 0 and below 1", self.p);
            return Err(ShapeError::Parameter { op: Self::NAME, what });
        }
        let y = TensorDesc::new(GgmlType::F32, &x.ne)?;
        if u32::try_from(y.elements()).is_err() {
            return Err(ShapeError::Overflow { ty: y.ty, ne: y.ne });
        }
        Ok(y)
    }

    fn reference(&self, src: &[RefTensor], dst: &mut RefTensor) {
        let keys = dropout_keys([src[1].data[0] as i32, src[1].data[1] as i32], self.stream);
        for (i, (y, x)) in dst.data.iter_mut().zip(&src[0].data).enumerate() {
            let keep = dropout_hash(keys, i as u32) >= self.threshold();
            *y = if keep { x * f64::from(self.factor()) } else { 0.0 };
        }
    }

    fn backward(&self, b: &mut Backward) -> Result<(), OpError> {
        let (grad, seed) = (b.grad(), b.src(1));
        let g = b.graph().dropout(grad, seed, self.p, self.stream)?;
        b.add_to(0, g)
    }

    fn cases() -> Vec<Case<Self>> {
        [(0.0, 0), (0.1, 3), (0.5, u32::MAX), (0.999, 7)]
            .map(|(p, stream)| {
                let src = [Operand::f32(&[70, 3, 5]).padded(), Operand::ints(&[2], &[-5, 77])];
                Case::new(Dropout { p, stream }, src, Tolerance::ELEMENTWISE)
            })
            .into()
    }
}

impl Graph {
    /// `x` with each element dropped with probability `p`, the others divided by `1 - p`; see [`Dropout`].
    pub fn dropout(&mut self, x: TensorId, seed: TensorId, p: f32, stream: u32) -> Result<TensorId, ShapeError> {
        self.op(Dropout { p, stream }, &[x, seed])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval_ref::Evaluator;

    fn dropped(seed: [i32; 2], stream: u32, p: f32) -> Vec<bool> {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[100, 100]).unwrap();
        let s = g.input("seed", TensorDesc::new(GgmlType::I32, &[2]).unwrap());
        let y = g.dropout(x, s, p, stream).unwrap();
        let mut e = Evaluator::new(&g);
        e.set(x, vec![1.0; 10_000]).unwrap();
        e.set(s, seed.map(f64::from).into()).unwrap();
        e.run().unwrap();
        e.get(y).unwrap().data.iter().map(|&v| v == 0.0).collect()
    }

    #[test]
    fn as_many_as_asked_for_and_independent_of_each_other() {
        for p in [0.0f32, 0.05, 0.5, 0.9] {
            let n = dropped([1, 2], 3, p).iter().filter(|&&d| d).count() as f64;
            let (mean, p) = (1e4 * f64::from(p), f64::from(p));
            assert!((n - mean).abs() <= 4.0 * (mean * (1.0 - p)).sqrt(), "{n} of 10000 at p = {p}");
        }
        // Half of the elements agree between any two of these, within four standard deviations.
        let masks: Vec<_> = [([1, 2], 3), ([2, 1], 3), ([1, 2], 4), ([0, 2], 3), ([1, 3], 3), ([0, 0], 0)]
            .map(|(seed, stream)| dropped(seed, stream, 0.5))
            .into();
        let mut shifted = masks[0].clone();
        shifted.rotate_left(1);
        for (i, a) in masks.iter().enumerate() {
            for b in masks[i + 1..].iter().chain([&shifted]) {
                let same = a.iter().zip(b).filter(|(a, b)| a == b).count();
                assert!((4800..=5200).contains(&same), "{same} of 10000 agree");
            }
        }
    }

    #[test]
    fn probabilities_outside_are_refused() {
        let mut g = Graph::new();
        let x = g.input_f32("x", &[4]).unwrap();
        let s = g.input("seed", TensorDesc::new(GgmlType::I32, &[2]).unwrap());
        for p in [-0.1, 1.0, f32::NAN, f32::INFINITY] {
            assert!(matches!(g.dropout(x, s, p, 0), Err(ShapeError::Parameter { .. })), "{p}");
        }
    }
}
