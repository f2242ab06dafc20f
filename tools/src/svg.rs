//! Pictures without a library: line charts and bars as SVG text that lives inside a page.
//!
//! Colours are CSS variables with fall-backs, so that a page may follow the reader's light or dark scheme.

use std::fmt::Write;

/// One line of a chart.
#[derive(Clone, Debug)]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// The points, in drawing order.
    pub points: Vec<(f64, f64)>,
    /// Draw dots instead of a line.
    pub dots: bool,
}

/// A line chart with a logarithmic or linear y axis.
#[derive(Clone, Debug)]
pub struct Chart {
    /// What the picture shows.
    pub title: String,
    /// Marks of the x axis: position and label.
    pub x_marks: Vec<(f64, String)>,
    /// What x is.
    pub x_title: String,
    /// What y is.
    pub y_title: String,
    /// The text at a mark of the y axis.
    pub y_label: fn(f64) -> String,
    /// Whether y is logarithmic.
    pub log: bool,
    /// The lines.
    pub series: Vec<Series>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 52.0;
/// The height of a line of the legend.
const LEGEND: f64 = 18.0;

/// Colours that are told apart by most eyes (Okabe and Ito), in the order of use.
pub const COLOURS: [&str; 8] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6bb1", "#7f7f7f"];

impl Chart {
    /// The picture as an `<svg>` element.
    pub fn svg(&self) -> String {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let x_range = range(all().map(|p| p.0).chain(self.x_marks.iter().map(|m| m.0)));
        let y_range = range(all().map(|p| p.1).filter(|y| !self.log || *y > 0.0));
        let (ticks, y_range) = if self.log { log_ticks(y_range) } else { linear_ticks(y_range) };
        let scale_y = |y: f64| {
            let (from, to) = y_range;
            let share = match self.log {
                true => (y.max(from).ln() - from.ln()) / (to.ln() - from.ln()),
                false => (y - from) / (to - from),
            };
            HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        };
        let scale_x = |x: f64| LEFT + (x - x_range.0) / (x_range.1 - x_range.0) * (WIDTH - LEFT - RIGHT);
        let rows = self.series.len().div_ceil(2) as f64;
        let mut out = open(HEIGHT + rows * LEGEND, &self.title);
        for y in ticks {
            let at = scale_y(y);
            let _ = write!(
                out,
                "<line x1='{LEFT}' x2='{:.1}' y1='{at:.1}' y2='{at:.1}' class='grid'/>\
                 <text x='{:.1}' y='{:.1}' class='y'>{}</text>",
                WIDTH - RIGHT,
                LEFT - 6.0,
                at + 4.0,
                escape(&(self.y_label)(y))
            );
        }
        for (x, label) in &self.x_marks {
            let at = scale_x(*x);
            let _ = write!(
                out,
                "<line x1='{at:.1}' x2='{at:.1}' y1='{TOP}' y2='{:.1}' class='grid'/>\
                 <text x='{at:.1}' y='{:.1}' class='x'>{}</text>",
                HEIGHT - BOTTOM,
                HEIGHT - BOTTOM + 18.0,
                escape(label)
            );
        }
        let _ = write!(
            out,
            "<text x='{:.1}' y='{:.1}' class='x'>{}</text><text transform='translate(14 {:.1}) rotate(-90)' class='x'>{}</text>",
            (LEFT + WIDTH - RIGHT) / 2.0,
            HEIGHT - BOTTOM + 38.0,
            escape(&self.x_title),
            (TOP + HEIGHT - BOTTOM) / 2.0,
            escape(&self.y_title)
        );
        for (i, s) in self.series.iter().enumerate() {
            let colour = COLOURS[i % COLOURS.len()];
            if s.dots {
                for (x, y) in &s.points {
                    let (x, y) = (scale_x(*x), scale_y(*y));
                    let _ = write!(out, "<circle cx='{x:.1}' cy='{y:.1}' r='1.8' fill='{colour}'/>");
                }
            } else {
                let points: Vec<String> =
                    s.points.iter().map(|(x, y)| format!("{:.1},{:.1}", scale_x(*x), scale_y(*y))).collect();
                let _ = write!(
                    out,
                    "<polyline points='{}' fill='none' stroke='{colour}' stroke-width='1.8'/>",
                    points.join(" ")
                );
            }
            let (x, y) = (LEFT + (i % 2) as f64 * 390.0, HEIGHT + (i / 2) as f64 * LEGEND);
            let _ = write!(
                out,
                "<rect x='{x:.1}' y='{:.1}' width='14' height='4' fill='{colour}'/><text x='{:.1}' y='{y:.1}' class='l'>{}</text>",
                y - 6.0,
                x + 20.0,
                escape(&s.name)
            );
        }
        out + "</svg>"
    }
}

/// A row of horizontal bars.
#[derive(Clone, Debug)]
pub struct Bar {
    /// Its name, left of it.
    pub name: String,
    /// The length of the bar, and of a thinner one behind it.
    pub value: f64,
    /// The end of the thin line behind the bar, 0 for none.
    pub whisker: f64,
    /// What stands behind it.
    pub label: String,
    /// Which of [`COLOURS`].
    pub colour: usize,
}

/// Horizontal bars with whiskers, all on one scale from zero.
pub fn bars(title: &str, rows: &[Bar]) -> String {
    const ROW: f64 = 24.0;
    const NAME: f64 = 290.0;
    const LABEL: f64 = 150.0;
    let longest = rows.iter().map(|r| r.value.max(r.whisker)).fold(f64::MIN_POSITIVE, f64::max);
    let width = WIDTH - NAME - LABEL;
    let mut out = open(TOP + rows.len() as f64 * ROW + 8.0, title);
    for (i, r) in rows.iter().enumerate() {
        let y = TOP + i as f64 * ROW;
        let (value, whisker) = (r.value / longest * width, r.whisker / longest * width);
        let colour = COLOURS[r.colour % COLOURS.len()];
        let _ = write!(
            out,
            "<text x='{:.1}' y='{:.1}' class='y'>{}</text>\
             <rect x='{NAME}' y='{:.1}' width='{whisker:.1}' height='2' fill='{colour}'/>\
             <rect x='{NAME}' y='{y:.1}' width='{value:.1}' height='15' rx='2' fill='{colour}'/>\
             <text x='{:.1}' y='{:.1}' class='l'>{}</text>",
            NAME - 8.0,
            y + 12.0,
            escape(&r.name),
            y + 6.5,
            NAME + value.max(whisker) + 8.0,
            y + 12.0,
            escape(&r.label)
        );
    }
    out + "</svg>"
}

/// Text that is safe inside HTML and SVG.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&#39;")
        .replace('"', "&quot;")
}

fn open(height: f64, title: &str) -> String {
    format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height:.0}' role='img' aria-label='{0}'>\
         <style>text{{font:12px system-ui,sans-serif;fill:var(--ink,#222)}}.x{{text-anchor:middle}}.y{{text-anchor:end}}\
         .t{{font-weight:600;font-size:14px}}.grid{{stroke:var(--grid,#ddd)}}</style>\
         <text x='{LEFT}' y='20' class='t'>{0}</text>",
        escape(title)
    )
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (from, to) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    match from < to {
        true => (from, to),
        false if from.is_finite() => (from, from + from.abs().max(1.0)),
        false => (0.0, 1.0),
    }
}

/// Marks at 1, 2, 5 × powers of ten, and the range widened to the marks around it.
fn log_ticks((from, to): (f64, f64)) -> (Vec<f64>, (f64, f64)) {
    let mut ticks = Vec::new();
    let mut power = 10f64.powf(from.max(1e-9).log10().floor());
    while power <= to * 10.0 {
        ticks.extend([power, power * 2.0, power * 5.0]);
        power *= 10.0;
    }
    let first = ticks.iter().rposition(|t| *t <= from).unwrap_or(0);
    let last = ticks.iter().position(|t| *t >= to).unwrap_or(ticks.len() - 1).max(first + 1);
    let ticks = ticks[first..=last].to_vec();
    let range = (ticks[0], ticks[ticks.len() - 1]);
    (ticks, range)
}

fn linear_ticks((_, to): (f64, f64)) -> (Vec<f64>, (f64, f64)) {
    let power = 10f64.powf(to.log10().floor());
    let step =
        [0.1, 0.2, 0.5, 1.0, 2.0].map(|s| s * power).into_iter().find(|s| to / s <= 7.0).unwrap_or(power);
    let count = (to / step).ceil();
    let ticks = (0..=count as usize).map(|i| i as f64 * step).collect();
    (ticks, (0.0, count * step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_surround_the_values() {
        assert_eq!(log_ticks((80.0, 4_000.0)).0, [50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]);
        assert_eq!(log_ticks((100.0, 100.5)).1, (100.0, 200.0));
        assert_eq!(linear_ticks((0.0, 7.0)).0, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn a_chart_is_well_formed_and_escaped() {
        let chart = Chart {
            title: "a < b & 'c'".into(),
            x_marks: vec![(0.0, "0".into())],
            x_title: "x".into(),
            y_title: "y".into(),
            y_label: |y| format!("{y}"),
            log: true,
            series: vec![Series { name: "s".into(), points: vec![(0.0, 1.0), (1.0, 90.0)], dots: false }],
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt; b &amp; &#39;c&#39;") && !svg.contains("NaN") && !svg.contains("inf"));
        assert_eq!(svg.matches("<polyline").count(), 1);
    }
}
