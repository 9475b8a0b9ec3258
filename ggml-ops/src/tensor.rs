use crate::ShapeError;
use gguf::GgmlType;

/// Type, shape and strides of a tensor, in ggml's order: `ne[0]` is innermost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorDesc {
    /// Storage type.
    pub ty: GgmlType,
    /// Elements per dimension; missing dimensions are 1.
    pub ne: [usize; 4],
    /// Strides in bytes; `nb[0]` is the bytes of one block.
    pub nb: [usize; 4],
}

impl TensorDesc {
    /// A contiguous tensor. `ne` may have 0 to 4 dimensions.
    ///
    /// # Errors
    /// [`ShapeError::Block`] where `ne[0]` is no whole number of blocks, [`ShapeError::Overflow`] where the bytes
    /// do not fit in an `isize`.
    pub fn new(ty: GgmlType, ne: &[usize]) -> Result<TensorDesc, ShapeError> {
        if ne.len() > 4 {
            return Err(ShapeError::Dimensions { got: ne.len() });
        }
        let mut full = [1; 4];
        for (to, from) in full.iter_mut().zip(ne) {
            *to = *from;
        }
        let ne = full;
        if !ne[0].is_multiple_of(ty.block_size()) {
            return Err(ShapeError::Block { ty, ne0: ne[0], block: ty.block_size() });
        }
        let overflow = ShapeError::Overflow { ty, ne };
        let mut nb = [ty.type_size(); 4];
        nb[1] = ty.row_size(ne[0]).ok_or(overflow.clone())?;
        nb[2] = nb[1].checked_mul(ne[1]).ok_or(overflow.clone())?;
        nb[3] = nb[2].checked_mul(ne[2]).ok_or(overflow.clone())?;
        let bytes = nb[3].checked_mul(ne[3]).ok_or(overflow.clone())?;
        let elements = ne.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).ok_or(overflow.clone())?;
        if isize::try_from(bytes).is_err() || isize::try_from(elements).is_err() {
            return Err(overflow);
        }
        Ok(TensorDesc { ty, ne, nb })
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.ne.iter().product()
    }

    /// Number of rows (of `ne[0]` elements).
    pub fn rows(&self) -> usize {
        self.ne[1] * self.ne[2] * self.ne[3]
    }

    /// Bytes from the first element to the end of the last one; `usize::MAX` where strides make that overflow.
    pub fn extent(&self) -> usize {
        if self.ne.contains(&0) {
            return 0;
        }
        let blocks = self.ne[0].div_ceil(self.ty.block_size());
        let steps = [blocks, self.ne[1], self.ne[2], self.ne[3]];
        let last = steps.iter().zip(self.nb).try_fold(0usize, |sum, (n, nb)| sum.checked_add((n - 1).checked_mul(nb)?));
        last.and_then(|last| last.checked_add(self.ty.type_size())).unwrap_or(usize::MAX)
    }

    /// Whether every element starts at a multiple of the alignment of its type, if the first one does: strides are then
    /// multiples of the bytes of a block.
    pub fn has_whole_strides(&self) -> bool {
        self.nb.iter().all(|nb| nb.is_multiple_of(self.ty.type_size()))
            && self.ne[0].is_multiple_of(self.ty.block_size())
    }

    /// Whether elements lie one after the other without gaps.
    pub fn is_contiguous(&self) -> bool {
        TensorDesc::new(self.ty, &self.ne).is_ok_and(|c| (0..4).all(|i| self.ne[i] == 1 || c.nb[i] == self.nb[i]))
    }

    /// Whether this is `base` with each row cut into several: `[a, b, c]` of `[a * b, c]`, whatever lies between the rows.
    pub(crate) fn cuts_rows_of(&self, base: &TensorDesc) -> bool {
        let rows = self.ty.block_size() == 1 && base.has_contiguous_rows() && self.has_contiguous_rows();
        let whole = self.ne[0].checked_mul(self.ne[1]) == Some(base.ne[0])
            && self.ne[0].checked_mul(self.nb[0]) == Some(self.nb[1]);
        let same = (1..3).all(|i| self.ne[i + 1] == base.ne[i] && self.nb[i + 1] == base.nb[i]) && base.ne[3] == 1;
        rows && whole && same
    }

    /// Whether the elements of a row lie one after the other.
    pub fn has_contiguous_rows(&self) -> bool {
        self.nb[0] == self.ty.type_size()
    }

    /// Byte offset of the row `(i1, i2, i3)`.
    pub fn row_offset(&self, i1: usize, i2: usize, i3: usize) -> usize {
        i1 * self.nb[1] + i2 * self.nb[2] + i3 * self.nb[3]
    }

    /// The coordinates of the `r`-th row, counted from the innermost dimension.
    pub fn row_index(&self, r: usize) -> (usize, usize, usize) {
        (r % self.ne[1], r / self.ne[1] % self.ne[2], r / (self.ne[1] * self.ne[2]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_checked() {
        let d = TensorDesc::new(GgmlType::TQ2_0, &[512, 3]).unwrap();
        assert_eq!((d.nb, d.extent(), d.rows()), ([66, 132, 396, 396], 396, 3));
        assert!(matches!(TensorDesc::new(GgmlType::TQ2_0, &[100]), Err(ShapeError::Block { .. })));
        assert!(matches!(TensorDesc::new(GgmlType::F32, &[usize::MAX / 2, 8]), Err(ShapeError::Overflow { .. })));
        assert!(matches!(
            TensorDesc::new(GgmlType::F32, &[0, usize::MAX, 2]),
            Err(ShapeError::Overflow { .. }) | Ok(_)
        ));
    }

    #[test]
    fn contiguity() {
        let mut d = TensorDesc::new(GgmlType::F32, &[4, 3, 2]).unwrap();
        assert!(d.is_contiguous());
        d.nb[1] = 32;
        d.nb[2] = 96;
        assert!(!d.is_contiguous() && d.has_contiguous_rows());
        assert_eq!(d.extent(), 96 + 64 + 16);
    }
}
