//! Points of spam scanners, as fixed decimals: compared and shown without rounding errors.

use std::fmt;

/// Points in hundredths, -999 999.99 to 999 999.99.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Hits(i32);

impl Hits {
    /// Reads `N`, `N.N`, `-N.NN`; digits behind the hundredths are cut off.
    pub fn parse(text: &str) -> Option<Self> {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
        let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
        let number = |text: &str| {
            let digits = !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<i32>().ok()).flatten()
        };
        let hundredths = number(part).map(|_| number(&format!("{part}0")[..2]))??;
        Some(Self(sign * (number(whole)? * 100 + hundredths)))
    }

    /// The nearest hundredth, within the range; `None` for what is no number.
    #[must_use]
    pub fn nearest(number: f64) -> Option<Self> {
        const MOST: f64 = 99_999_999.0;
        let hundredths = (number * 100.0).round().clamp(-MOST, MOST);
        // Within the range of an i32.
        (!number.is_nan()).then_some(Self(hundredths as i32))
    }
}

impl fmt::Display for Hits {
    /// With two decimals, as C's `%.2f`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let hundredths = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals() {
        for (text, shown) in [
            ("10", Some("10.00")),
            ("20.1", Some("20.10")),
            ("-0.5", Some("-0.50")),
            ("4.999", Some("4.99")),
            ("0", Some("0.00")),
            ("999999.99", Some("999999.99")),
            ("1000000", None),
            ("", None),
            ("-", None),
            (".5", None),
            ("5.", None),
            ("+5", None),
            ("--5", None),
            ("1e3", None),
            ("nan", None),
            ("1.-5", None),
        ] {
            assert_eq!(Hits::parse(text).map(|hits| hits.to_string()).as_deref(), shown, "{text}");
        }
        for (number, shown) in [
            (12.5, Some("12.50")),
            (-0.005, Some("-0.01")),
            (0.29, Some("0.29")),
            (1e9, Some("999999.99")),
            (f64::NEG_INFINITY, Some("-999999.99")),
            (f64::NAN, None),
        ] {
            assert_eq!(Hits::nearest(number).map(|hits| hits.to_string()).as_deref(), shown, "{number}");
        }
        assert!(Hits::parse("-1").unwrap() < Hits::parse("0.01").unwrap());
        assert!(Hits::parse("10.0").unwrap() > Hits::parse("9.99").unwrap());
    }
}
