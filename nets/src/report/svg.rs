//! A plot as inline SVG: two axes with ticks, marks, a legend. Colours come from the classes of the
//! page, so that it follows a light or dark setting; plotting crates write fixed colours and no
//! tooltips, which is why this is ours.

use std::fmt::Write as _;

/// Size of a plot and of the area inside its axes, in user units.
const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 26.0;
const BOTTOM: f64 = 50.0;

/// Replaces what has a meaning in XML and HTML, and drops what XML cannot hold.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => out.push(c),
        }
    }
    out
}

/// At most four significant digits, in plain or scientific notation.
pub(super) fn number(value: f64) -> String {
    if !value.is_finite() {
        return "not defined".to_owned();
    }
    if value == 0.0 {
        return "0".to_owned();
    }
    let size = value.abs().log10().floor();
    if !(-4.0..7.0).contains(&size) {
        return format!("{value:.2e}").replace('-', "\u{2212}");
    }
    let decimals = (3.0 - size).clamp(0.0, 6.0) as usize;
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    text.replace('-', "\u{2212}")
}

/// One axis.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    label: String,
    low: f64,
    high: f64,
    ticks: Vec<(f64, String)>,
}

impl Axis {
    /// Over these values with a little room, ticks at 1, 2 or 5 times a power of ten.
    pub(super) fn over(label: &str, values: impl IntoIterator<Item = f64>) -> Self {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.into_iter().filter(|value| value.is_finite()) {
            low = low.min(value);
            high = high.max(value);
        }
        if low > high {
            (low, high) = (0.0, 1.0);
        }
        let room = (high - low) * 0.04;
        let room = if room > 0.0 {
            room
        } else {
            low.abs().max(1.0) * 0.1
        };
        Self::between(label, low - room, high + room)
    }

    /// Exactly from `low` to `high`.
    pub(super) fn between(label: &str, low: f64, high: f64) -> Self {
        let rough = (high - low) / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|factor| factor * power)
            .into_iter()
            .find(|step| *step >= rough)
            .unwrap_or(10.0 * power);
        let decimals = (-step.log10().floor()).clamp(0.0, 9.0) as usize;
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let wide = low.abs().max(high.abs()) >= 1e7 || step < 1e-9;
        let tick = |at: i64| {
            let value = at as f64 * step;
            let text = if wide {
                number(value)
            } else {
                format!("{value:.decimals$}").replace('-', "\u{2212}")
            };
            (value, text)
        };
        // a step is at least a fifth of the range, so there are few
        let ticks = (first..=last).take(12).map(tick).collect();
        Self {
            label: label.to_owned(),
            low,
            high,
            ticks,
        }
    }

    /// Begins at 0, where bars stand.
    pub(super) fn standing_on_zero(mut self) -> Self {
        self.low = 0.0;
        self.ticks.retain(|(value, _)| *value >= 0.0);
        self
    }

    /// With these ticks and half a step of room around them.
    pub(super) fn steps(label: &str, ticks: Vec<(f64, String)>) -> Self {
        let ends =
            |pick: fn(f64, f64) -> f64, start| ticks.iter().map(|(at, _)| *at).fold(start, pick);
        let (low, high) = (
            ends(f64::min, f64::INFINITY),
            ends(f64::max, f64::NEG_INFINITY),
        );
        let (low, high) = if low > high { (0.0, 1.0) } else { (low, high) };
        Self {
            label: label.to_owned(),
            low: low - 0.5,
            high: high + 0.5,
            ticks,
        }
    }

    /// Of decimal logarithms from `low` to `high`, both whole numbers.
    pub(super) fn decades(label: &str, low: i32, high: i32) -> Self {
        let tick = |power: i32| {
            let text = match power {
                0 => "1".to_owned(),
                -3..=-1 => format!("{}", 10f64.powi(power)),
                1..=4 => format!("{}", 10f64.powi(power)),
                _ => format!("1e{power}").replace('-', "\u{2212}"),
            };
            (f64::from(power), text)
        };
        Self {
            label: label.to_owned(),
            low: f64::from(low) - 0.05,
            high: f64::from(high) + 0.05,
            ticks: (low..=high).map(tick).collect(),
        }
    }
}

/// How a mark looks: one of four series, or the quiet colour of a reference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    One,
    Two,
    Three,
    Four,
    Quiet,
}

impl Look {
    pub(super) fn of(number: usize) -> Self {
        [Self::One, Self::Two, Self::Three, Self::Four][number % 4]
    }

    fn class(self) -> &'static str {
        match self {
            Self::One => "s1",
            Self::Two => "s2",
            Self::Three => "s3",
            Self::Four => "s4",
            Self::Quiet => "sq",
        }
    }
}

/// A point and what is said when it is pointed at.
pub(super) type Point = (f64, f64, String);

#[derive(Debug, Clone)]
pub(super) enum Mark {
    /// Joined by straight lines.
    Line {
        look: Look,
        dashed: bool,
        points: Vec<(f64, f64)>,
    },
    /// Discs, or open squares, so that two series differ without colour.
    Points {
        look: Look,
        open: bool,
        points: Vec<Point>,
    },
    /// From 0 up, each with its left and right end, height and text.
    Bars {
        look: Look,
        bars: Vec<(f64, f64, f64, String)>,
    },
}

/// A plot.
#[derive(Debug, Clone)]
pub(super) struct Chart {
    pub(super) title: String,
    /// What it shows, for those who cannot see it.
    pub(super) description: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) marks: Vec<Mark>,
    /// Name of a series; dashed lines differ from full ones.
    pub(super) legend: Vec<(Look, bool, String)>,
}

impl Chart {
    fn x(&self, value: f64) -> f64 {
        let part = (value - self.x.low) / (self.x.high - self.x.low);
        LEFT + part.clamp(-1.0, 2.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let part = (value - self.y.low) / (self.y.high - self.y.low);
        HEIGHT - BOTTOM - part.clamp(-1.0, 2.0) * (HEIGHT - TOP - BOTTOM)
    }

    /// The element; `id` must be unique on the page.
    pub(super) fn to_svg(&self, id: usize) -> String {
        let mut out = String::new();
        // writing to a String cannot fail
        let _ = self.write(&mut out, id);
        out
    }

    fn write(&self, out: &mut String, id: usize) -> std::fmt::Result {
        let (title, description) = (escape(&self.title), escape(&self.description));
        writeln!(
            out,
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-labelledby=\"t{id} d{id}\">\
             <title id=\"t{id}\">{title}</title><desc id=\"d{id}\">{description}</desc>\
             <clipPath id=\"c{id}\"><rect x=\"{LEFT}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/></clipPath>",
            WIDTH - LEFT - RIGHT,
            HEIGHT - TOP - BOTTOM
        )?;
        self.axes(out)?;
        writeln!(out, "<g clip-path=\"url(#c{id})\">")?;
        for mark in &self.marks {
            self.mark(out, mark)?;
        }
        writeln!(out, "</g>")?;
        self.write_legend(out)?;
        writeln!(out, "</svg>")
    }

    fn axes(&self, out: &mut String) -> std::fmt::Result {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in &self.x.ticks {
            let x = self.x(*value);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
                 <text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                escape(text)
            )?;
        }
        for (value, text) in &self.y.ticks {
            let y = self.y(*value);
            writeln!(
                out,
                "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{right}\" y2=\"{y:.1}\"/>\
                 <text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                LEFT - 7.0,
                y + 4.0,
                escape(text)
            )?;
        }
        writeln!(
            out,
            "<path class=\"axis\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>\
             <text class=\"label\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text class=\"label\" x=\"14\" y=\"{:.1}\" text-anchor=\"middle\" transform=\"rotate(-90 14 {:.1})\">{}</text>",
            f64::midpoint(LEFT, right),
            HEIGHT - 12.0,
            escape(&short(&self.x.label, 60)),
            f64::midpoint(TOP, bottom),
            f64::midpoint(TOP, bottom),
            escape(&short(&self.y.label, 40)),
        )
    }

    fn mark(&self, out: &mut String, mark: &Mark) -> std::fmt::Result {
        match mark {
            Mark::Line {
                look,
                dashed,
                points,
            } => {
                let mut path = String::new();
                let finite = points
                    .iter()
                    .filter(|(x, y)| x.is_finite() && y.is_finite());
                for (number, (x, y)) in finite.enumerate() {
                    let letter = if number == 0 { 'M' } else { 'L' };
                    write!(path, "{letter}{:.1} {:.1}", self.x(*x), self.y(*y))?;
                }
                let dash = if *dashed { " dash" } else { "" };
                writeln!(
                    out,
                    "<path class=\"line {}{dash}\" d=\"{path}\"/>",
                    look.class()
                )
            }
            Mark::Points { look, open, points } => {
                for (x, y, text) in points {
                    if !(x.is_finite() && y.is_finite()) {
                        continue;
                    }
                    let (x, y, class) = (self.x(*x), self.y(*y), look.class());
                    let text = escape(text);
                    if *open {
                        writeln!(
                            out,
                            "<rect class=\"open {class}\" x=\"{:.1}\" y=\"{:.1}\" width=\"7\" height=\"7\"><title>{text}</title></rect>",
                            x - 3.5,
                            y - 3.5
                        )?;
                    } else {
                        writeln!(
                            out,
                            "<circle class=\"dot {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"><title>{text}</title></circle>"
                        )?;
                    }
                }
                Ok(())
            }
            Mark::Bars { look, bars } => {
                let base = self.y(0.0);
                for (left, right, height, text) in bars {
                    let (x, y) = (self.x(*left), self.y(*height));
                    writeln!(
                        out,
                        "<rect class=\"bar {}\" x=\"{:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{:.1}\"><title>{}</title></rect>",
                        look.class(),
                        x + 0.5,
                        (self.x(*right) - x - 1.0).max(0.5),
                        (base - y).max(0.0),
                        escape(text)
                    )?;
                }
                Ok(())
            }
        }
    }

    /// In one line above the plot.
    fn write_legend(&self, out: &mut String) -> std::fmt::Result {
        // about six units a letter at this size
        let width = |name: &str| 36.0 + 6.2 * name.chars().count() as f64;
        let names: Vec<String> = self
            .legend
            .iter()
            .map(|(.., name)| short(name, 26))
            .collect();
        let all: f64 = names.iter().map(|name| width(name)).sum();
        // a long one begins left of the axis
        let mut x = (WIDTH - all).clamp(4.0, LEFT);
        for ((look, dashed, _), name) in self.legend.iter().zip(&names) {
            let dash = if *dashed { " dash" } else { "" };
            writeln!(
                out,
                "<path class=\"line {}{dash}\" d=\"M{x:.1} 13h18\"/><text class=\"key\" x=\"{:.1}\" y=\"17\">{}</text>",
                look.class(),
                x + 23.0,
                escape(name)
            )?;
            x += width(name);
        }
        Ok(())
    }
}

/// Cut where it is long.
pub(super) fn short(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let cut: String = text.chars().take(most - 1).collect();
    cut + "…"
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_short() {
        for (value, text) in [
            (0.0, "0"),
            (1.0, "1"),
            (0.5, "0.5"),
            (-1234.5678, "\u{2212}1235"),
            (0.012_345, "0.01235"),
            (123_456.0, "123456"),
            (f64::NAN, "not defined"),
            (1.5e-9, "1.50e\u{2212}9"),
        ] {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        let axis = Axis::between("x", -1.3, 2.2);
        let texts: Vec<&str> = axis.ticks.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["\u{2212}1", "0", "1", "2"]);
        let same = Axis::over("x", [3.0, 3.0]);
        assert!(same.low < 3.0 && same.high > 3.0 && !same.ticks.is_empty());
    }

    proptest! {
        #[test]
        fn any_range_has_a_few_ticks_inside(low in -1e6..1e6f64, width in 1e-3..1e6f64) {
            let axis = Axis::between("x", low, low + width);
            prop_assert!((2..=12).contains(&axis.ticks.len()), "{:?}", axis.ticks);
            for (value, _) in &axis.ticks {
                prop_assert!(*value >= low - width * 1e-3 && *value <= low + width * 1.001);
            }
        }

        #[test]
        fn nothing_of_a_text_is_markup(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
        }
    }
}
