//! The mean of some runs and how well they determine it.

use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};

use serde::Serialize;

/// The mean of a few values with its confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// How many values there are.
    pub n: usize,
    /// Their mean.
    pub mean: f64,
    /// Half the width of the 95% confidence interval of the mean; none for a single value, which tells nothing of it.
    pub half_width: Option<f64>,
}

impl Spread {
    /// Returns mean and interval of some values; none if there are none.
    ///
    /// The interval is Student's: mean ± t(0.975, n − 1) · s / √n with the sample standard deviation
    /// s = √(Σ(x − mean)² / (n − 1)); Student, "The Probable Error of a Mean", Biometrika 6 (1908), in the form of the
    /// NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.5.2. It supposes that the values are independent
    /// and about normal, which few runs can't show: it is a guide, not a test.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let half_width = (n > 1).then(|| {
            let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
            let deviation = (squares / (n - 1) as f64).sqrt();
            t_quantile_975(n - 1) * deviation / (n as f64).sqrt()
        });
        Some(Spread { n, mean, half_width })
    }

    /// Returns the ends of the interval.
    pub fn interval(&self) -> Option<[f64; 2]> {
        self.half_width.map(|half| [self.mean - half, self.mean + half])
    }
}

/// Returns the 0.975 quantile of Student's t distribution with a whole number of degrees of freedom, at least 1.
///
/// It is found by bisection of the distribution function, which has a closed form for whole degrees of freedom, so
/// that no library of special functions is needed.
fn t_quantile_975(degrees: usize) -> f64 {
    // One degree of freedom has the largest, 12.7062; all others lie between it and that of the normal distribution.
    let (mut low, mut high) = (1.9, 12.8);
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if central_probability(middle, degrees) < 0.95 {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low + high) / 2.0
}

/// Returns the probability that |T| < t, by the finite series of Abramowitz and Stegun, "Handbook of Mathematical
/// Functions", 26.7.3 for odd and 26.7.4 for even degrees of freedom, with θ = atan(t / √ν).
fn central_probability(t: f64, degrees: usize) -> f64 {
    // The series has ν / 2 terms; beyond this many degrees the quantile moves by less than 1e-6.
    let degrees = degrees.min(1_000_000 + degrees % 2);
    let theta = (t / (degrees as f64).sqrt()).atan().min(FRAC_PI_2);
    let (sin, cos) = theta.sin_cos();
    let is_odd = degrees % 2 == 1;
    // Odd: cos + 2/3 cos³ + 2·4/(3·5) cos⁵ ... up to cos^(ν-2); even: 1 + 1/2 cos² + 1·3/(2·4) cos⁴ ... likewise.
    let mut term = if is_odd { cos } else { 1.0 };
    let mut sum = if degrees == 1 { 0.0 } else { term };
    let mut k = if is_odd { 3 } else { 2 };
    while k + 2 <= degrees {
        term *= cos * cos * (k - 1) as f64 / k as f64;
        sum += term;
        k += 2;
    }
    if is_odd {
        FRAC_2_PI * (theta + sin * sum)
    } else {
        sin * sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_near(found: f64, expected: f64) {
        assert!(
            (found - expected).abs() < 1e-9 * expected.abs().max(1.0),
            "{found} is not {expected}"
        );
    }

    #[test]
    fn quantiles_are_those_of_scipy() {
        // scipy.stats.t.ppf(0.975, df)
        for (degrees, expected) in [
            (1, 12.706204736174694),
            (2, 4.302652729749462),
            (3, 3.1824463052837078),
            (4, 2.7764451051977934),
            (5, 2.5705818356363146),
            (9, 2.262157162798205),
            (10, 2.228138851986274),
            (29, 2.045229642132703),
            (30, 2.0422724563012378),
            (100, 1.9839715185235518),
            (999, 1.9623414611334493),
            (9999, 1.960201263621357),
        ] {
            assert_near(t_quantile_975(degrees), expected);
        }
    }

    #[test]
    fn intervals_are_those_of_scipy() {
        // scipy.stats.t.interval(0.95, n - 1, loc=numpy.mean(x), scale=scipy.stats.sem(x))
        let five = Spread::of(&[0.412, 0.398, 0.431, 0.405, 0.42]).expect("five values");
        let [low, high] = five.interval().expect("more than one value");
        assert_near(five.mean, 0.4132);
        assert_near(low, 0.3972167407713278);
        assert_near(high, 0.42918325922867234);
        let [low, high] = Spread::of(&[1.0, 3.0])
            .and_then(|two| two.interval())
            .expect("two values");
        assert_near(low, -10.706204736174694);
        assert_near(high, 14.706204736174694);
    }

    #[test]
    fn one_value_has_no_interval_and_equal_ones_have_a_narrow_one() {
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.4]).and_then(|one| one.half_width), None);
        assert_eq!(Spread::of(&[0.5; 3]).and_then(|equal| equal.half_width), Some(0.0));
    }
}
