//! Sets of real numbers: unions of intervals, with exact ends.

use super::answer::{Answer, Quantity, Relation};
use super::compare::same_number;
use super::expr::Expr;
use super::numeric;

const MAX_PIECES: usize = 60;

/// Disjoint intervals in order.
#[derive(Debug, Clone)]
pub(super) struct Reals(Vec<Interval>);

#[derive(Debug, Clone)]
struct Interval {
    low: End,
    high: End,
}

#[derive(Debug, Clone)]
struct End {
    /// Only looked at where it is finite.
    expr: Expr,
    value: f64,
    closed: bool,
}

impl End {
    fn infinite(value: f64) -> Self {
        Self {
            expr: Expr::Infinity,
            value,
            closed: false,
        }
    }

    fn of(answer: &Answer, closed: bool) -> Option<Self> {
        let Answer::Quantity(Quantity {
            expr,
            unit: None,
            percent: false,
        }) = answer
        else {
            return None;
        };
        let infinite = match expr {
            Expr::Infinity => Some(f64::INFINITY),
            Expr::Negative(inner) if **inner == Expr::Infinity => Some(f64::NEG_INFINITY),
            _ => None,
        };
        if let Some(value) = infinite {
            return Some(Self::infinite(value));
        }
        let value = expr.is_constant().then(|| numeric::constant(expr))??;
        (value.im == 0.0).then(|| Self {
            expr: expr.clone(),
            value: value.re,
            closed,
        })
    }

    fn open(&self) -> Self {
        Self {
            closed: false,
            ..self.clone()
        }
    }

    fn is_same_place(&self, other: &Self) -> bool {
        if self.value.is_infinite() || other.value.is_infinite() {
            return self.value == other.value;
        }
        let near = (self.value - other.value).abs() <= 1e-5 * self.value.abs().max(1e-5);
        near && same_number(&self.expr, &other.expr)
    }
}

impl Interval {
    fn new(low: End, high: End) -> Option<Self> {
        let point = low.closed && high.closed && low.is_same_place(&high);
        (point || low.value < high.value).then_some(Self { low, high })
    }
}

impl Reals {
    pub(super) fn all() -> Self {
        Self(vec![Interval {
            low: End::infinite(f64::NEG_INFINITY),
            high: End::infinite(f64::INFINITY),
        }])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether the pieces have the same ends, open and closed ones told apart.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same_end = |a: &End, b: &End| a.closed == b.closed && a.is_same_place(b);
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .zip(&other.0)
                .all(|(a, b)| same_end(&a.low, &b.low) && same_end(&a.high, &b.high))
    }

    pub(super) fn union(&self, other: &Self) -> Option<Self> {
        let mut pieces: Vec<Interval> = self.0.iter().chain(&other.0).cloned().collect();
        if pieces.len() > MAX_PIECES {
            return None;
        }
        pieces.sort_by(|a, b| {
            a.low
                .value
                .total_cmp(&b.low.value)
                .then(b.low.closed.cmp(&a.low.closed))
        });
        let mut merged: Vec<Interval> = Vec::new();
        for piece in pieces {
            let Some(last) = merged.last_mut() else {
                merged.push(piece);
                continue;
            };
            let touches = last.high.is_same_place(&piece.low);
            if touches && !(last.high.closed || piece.low.closed) || (!touches && last.high.value < piece.low.value) {
                merged.push(piece);
            } else if piece.high.is_same_place(&last.high) {
                last.high.closed |= piece.high.closed;
            } else if piece.high.value > last.high.value {
                last.high = piece.high;
            }
        }
        Some(Self(merged))
    }

    pub(super) fn intersection(&self, other: &Self) -> Option<Self> {
        let mut pieces = Vec::new();
        for a in &self.0 {
            for b in &other.0 {
                let inner = |a: &End, b: &End, larger: bool| {
                    if a.is_same_place(b) {
                        return if a.closed { b.clone() } else { a.clone() };
                    }
                    if (a.value > b.value) == larger {
                        a.clone()
                    } else {
                        b.clone()
                    }
                };
                pieces.extend(Interval::new(
                    inner(&a.low, &b.low, true),
                    inner(&a.high, &b.high, false),
                ));
            }
        }
        (pieces.len() <= MAX_PIECES).then_some(Self(pieces))
    }

    pub(super) fn complement(&self) -> Self {
        let mut pieces = Vec::new();
        let mut low = End::infinite(f64::NEG_INFINITY);
        for piece in &self.0 {
            let high = End {
                closed: !piece.low.closed && piece.low.value.is_finite(),
                ..piece.low.clone()
            };
            pieces.extend(Interval::new(low, high));
            low = End {
                closed: !piece.high.closed && piece.high.value.is_finite(),
                ..piece.high.clone()
            };
        }
        pieces.extend(Interval::new(low, End::infinite(f64::INFINITY)));
        Self(pieces)
    }
}

/// Reads an answer as a set of real numbers: intervals, points of a set, inequalities for one variable.
pub(super) fn of_answer(answer: &Answer) -> Option<Reals> {
    match answer {
        Answer::Reals(reals) => Some(reals.clone()),
        Answer::Tuple(open, close, members) => {
            let [low, high] = members.as_slice() else { return None };
            let low = End::of(low, *open == '[')?;
            let high = End::of(high, *close == ']')?;
            Some(Reals(vec![Interval::new(low, high)?]))
        }
        Answer::Set(members) => members.iter().try_fold(Reals(Vec::new()), |all, member| {
            let point = End::of(member, true).filter(|end| end.value.is_finite())?;
            all.union(&Reals(vec![Interval::new(point.clone(), point)?]))
        }),
        Answer::Relation(relation) => of_relation(relation).map(|(_, reals)| reals),
        _ => None,
    }
}

/// Reads the union of intervals in a list, at least one of which can't be a point: it has a square bracket or no end.
pub(super) fn of_listed(pieces: &[Answer]) -> Option<Reals> {
    let found: Vec<Reals> = pieces
        .iter()
        .map(|piece| match piece {
            Answer::Tuple(..) => of_answer(piece),
            _ => None,
        })
        .collect::<Option<_>>()?;
    let is_interval = |end: &End| end.closed || end.value.is_infinite();
    let certain = found
        .iter()
        .flat_map(|reals| &reals.0)
        .any(|piece| is_interval(&piece.low) || is_interval(&piece.high));
    let mut found = found.into_iter();
    let first = found.next().filter(|_| certain)?;
    found.try_fold(first, |all, next| all.union(&next))
}

/// Reads an inequality, `x \neq a` or `x \in S` as the name of the variable and its values.
pub(super) fn of_relation(relation: &Relation) -> Option<(String, Reals)> {
    let members: Vec<(&Answer, Option<&String>)> = relation
        .members
        .iter()
        .map(|member| (&member.answer, member.name.as_ref()))
        .collect();
    let ray = |sign: char, bound: &Answer| -> Option<Reals> {
        let end = End::of(bound, matches!(sign, '≤' | '≥'))?;
        let piece = match sign {
            '<' | '≤' => Interval::new(End::infinite(f64::NEG_INFINITY), end),
            '>' | '≥' => Interval::new(end, End::infinite(f64::INFINITY)),
            '≠' => {
                let (below, above) = (end.open(), end.open());
                let low = Interval::new(End::infinite(f64::NEG_INFINITY), below)?;
                let high = Interval::new(above, End::infinite(f64::INFINITY))?;
                return Some(Reals(vec![low, high]));
            }
            _ => None,
        };
        Some(Reals(vec![piece?]))
    };
    let turned = |sign: char| match sign {
        '<' => '>',
        '>' => '<',
        '≤' => '≥',
        '≥' => '≤',
        other => other,
    };
    // |x| < a is -a < x < a, and |x| > a is what lies outside.
    if let ([(_, Some(name)), (bound, None)], [sign @ ('<' | '≤' | '>' | '≥')]) =
        (members.as_slice(), relation.signs.as_slice())
        && let Some(inner) = name.strip_prefix('|').and_then(|name| name.strip_suffix('|'))
        && let Answer::Quantity(quantity) = bound
    {
        let opposite = Answer::Quantity(Quantity {
            expr: Expr::Negative(Box::new(quantity.expr.clone())),
            ..quantity.clone()
        });
        let (above, below) = (ray(*sign, bound)?, ray(turned(*sign), &opposite)?);
        let both = if matches!(sign, '<' | '≤') {
            above.intersection(&below)?
        } else {
            above.union(&below)?
        };
        return Some((inner.to_owned(), both));
    }
    match (members.as_slice(), relation.signs.as_slice()) {
        ([(_, Some(name)), (set, _)], ['∈']) => Some(((*name).clone(), of_answer(set)?)),
        ([(_, Some(name)), (bound, None)], [sign]) => Some(((*name).clone(), ray(*sign, bound)?)),
        ([(bound, None), (_, Some(name))], [sign]) => Some(((*name).clone(), ray(turned(*sign), bound)?)),
        ([(low, None), (_, Some(name)), (high, None)], [first, second]) => {
            let rising = |sign: &char| matches!(sign, '<' | '≤');
            let falling = |sign: &char| matches!(sign, '>' | '≥');
            if !(rising(first) && rising(second) || falling(first) && falling(second)) {
                return None;
            }
            let both = ray(turned(*first), low)?.intersection(&ray(*second, high)?)?;
            Some(((*name).clone(), both))
        }
        _ => None,
    }
}
