//! Many points of the same axes, flat in memory: a sweep of a hundred thousand nodes is one list of numbers.
//!
//! It knows numbers of values only; what they stand for is in `axes`.

/// Points one after the other; each has one number for every axis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Points {
    width: usize,
    len: usize,
    flat: Vec<u32>,
}

impl Points {
    /// Returns no points, of `width` axes.
    pub fn none(width: usize) -> Points {
        Points {
            width,
            ..Points::default()
        }
    }

    /// Returns the single point that there is without axes.
    pub fn unit() -> Points {
        Points {
            len: 1,
            ..Points::default()
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn get(&self, idx: usize) -> &[u32] {
        &self.flat[idx * self.width..(idx + 1) * self.width]
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u32]> {
        (0..self.len).map(|idx| self.get(idx))
    }

    /// Adds a point, which must have a number for every axis.
    pub fn push(&mut self, point: impl IntoIterator<Item = u32>) {
        self.flat.extend(point);
        self.len += 1;
        debug_assert_eq!(self.flat.len(), self.len * self.width);
    }

    /// Returns the points with these columns only, in this order; as many as before.
    pub fn project(&self, columns: &[usize]) -> Points {
        let mut projected = Points::none(columns.len());
        projected.flat.reserve_exact(self.len * columns.len());
        for point in self.iter() {
            projected.push(columns.iter().map(|&column| point[column]));
        }
        projected
    }

    /// Returns the points at `order`.
    pub fn pick(&self, order: impl IntoIterator<Item = usize>) -> Points {
        let mut picked = Points::none(self.width);
        order
            .into_iter()
            .for_each(|idx| picked.push(self.get(idx).iter().copied()));
        picked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_without_axes_are_still_counted() {
        assert_eq!(Points::unit().iter().collect::<Vec<_>>(), [&[] as &[u32]]);
        assert_eq!(Points::none(0).len(), 0);
        let mut points = Points::none(2);
        points.push([1, 2]);
        points.push([1, 3]);
        assert_eq!(points.project(&[]).len(), 2);
        assert_eq!(points.project(&[1, 0]).get(1), [3, 1]);
        assert_eq!(points.pick([1]).iter().collect::<Vec<_>>(), [[1, 3]]);
    }
}
