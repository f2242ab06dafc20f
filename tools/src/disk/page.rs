//! The report as one page that needs nothing else: pictures, numbers, words.

use super::lane::{Outcome, Space, Way};
use super::verdict::Verdict;
use super::{Findings, PERCENTILES};
use crate::render;
use crate::svg::{self, Bar, Chart, Series, escape};
use hdrhistogram::Histogram;
use std::fmt::Write;

const STYLE: &str = "
:root{--ink:#222;--grid:#ddd;--paper:#fff;--soft:#f5f5f2}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--grid:#444;--paper:#1b1b1b;--soft:#262626}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:900px;margin:2em auto;padding:0 1em}
svg{width:100%;height:auto;margin:1em 0}table{border-collapse:collapse;width:100%;font-size:13px;margin:1em 0}
th,td{padding:.25em .5em;text-align:right;border-bottom:1px solid var(--grid);white-space:nowrap}
th:first-child,td:first-child{text-align:left;white-space:normal}
.verdict{background:var(--soft);padding:.8em 1.2em;border-radius:6px}pre{background:var(--soft);padding:.8em 1.2em;overflow-x:auto}";

/// The page.
pub fn html(found: &Findings, verdict: &Verdict) -> String {
    let title = format!("Commit latency of {}", found.dir.display());
    let mut out = format!(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>\
         <title>{0}</title><style>{STYLE}</style></head><body><h1>{0}</h1><p>{1}</p><div class='verdict'>",
        escape(&title),
        escape(&found.facts.line())
    );
    for line in &verdict.words {
        let _ = write!(out, "<p>{}</p>", escape(line));
    }
    let _ = write!(
        out,
        "</div><h2>Suggested configuration</h2><pre>{}</pre>",
        escape(&verdict.configuration.join("\n"))
    );
    out += "<h2>Distribution</h2>";
    out += &distribution(found).svg();
    out += &comparison(found);
    out += "<h2>Timeline</h2>";
    out += &over_time(found).svg();
    out += "<h2>All numbers</h2>";
    table(found, &mut out);
    out + "</body></html>\n"
}

/// The percentiles of the ways at 4 KiB, the x axis stretched towards the tail.
fn distribution(found: &Findings) -> Chart {
    let marks = [0.0, 50.0, 90.0, 99.0, 99.9, 99.99];
    let x = |p: f64| -(1.0 - p / 100.0).max(1e-5).log10();
    let shown = |o: &&Outcome| {
        o.lane.size == vfs::BLOCK
            && !o.latency.is_empty()
            && matches!(
                (o.lane.space, o.lane.way),
                (Space::Append | Space::Hole | Space::Prepared, Way::Buffered)
                    | (Space::Prepared | Space::Recycled, Way::Direct)
                    | (Space::Prepared, Way::Uring(1 | 4))
            )
    };
    let line = |h: &Histogram<u64>| {
        // A percentile that not even one commit stands for is not drawn.
        let last = (1.0 - 1.0 / h.len() as f64) * 100.0;
        let steps = (0..=100).map(|i| 100.0 * (1.0 - 10f64.powf(-f64::from(i) * 0.04)));
        steps.take_while(|p| *p <= last).map(|p| (x(p), h.value_at_quantile(p / 100.0) as f64)).collect()
    };
    Chart {
        title: "4 KiB commits: how many are faster than this".into(),
        x_marks: marks.map(|p| (x(p), if p == 0.0 { "fastest".into() } else { format!("p{p}") })).into(),
        x_title: "percentile".into(),
        y_title: "latency".into(),
        y_label: |y| render::nanos(y as u64),
        log: true,
        series: found
            .outcomes
            .iter()
            .filter(shown)
            .map(|o| Series { name: o.lane.to_string(), points: line(&o.latency), dots: false })
            .collect(),
    }
}

fn comparison(found: &Findings) -> String {
    let rows: Vec<Bar> = found
        .outcomes
        .iter()
        .filter(|o| !o.latency.is_empty())
        .map(|o| Bar {
            name: format!("{} · {}", render::bytes(o.lane.size as u64), o.lane),
            value: o.at(50.0) as f64,
            whisker: o.at(99.0) as f64,
            label: format!("{} (p99 {})", render::nanos(o.at(50.0)), render::nanos(o.at(99.0))),
            colour: match o.lane.way {
                Way::Buffered => 1,
                Way::Direct | Way::DirectThreads(_) => 0,
                Way::Uring(_) => 2,
            },
        })
        .collect();
    svg::bars("Median commit (bar) and 99th percentile (line)", &rows)
}

fn over_time(found: &Findings) -> Chart {
    let t = &found.timeline;
    let line = |name: &str, dots, value: fn(&Histogram<u64>) -> u64| Series {
        name: name.into(),
        points: t.points.iter().map(|p| (p.at, value(&p.latency) as f64)).collect(),
        dots,
    };
    let end = t.points.last().map_or(1.0, |p| p.at);
    let marks = (0..=8).map(|i| (end * f64::from(i) / 8.0, format!("{:.1}", end * f64::from(i) / 8.0)));
    Chart {
        title: format!("{}, {}", t.lane, render::bytes(t.lane.size as u64)),
        x_marks: marks.collect(),
        x_title: "seconds".into(),
        y_title: "latency".into(),
        y_label: |y| render::nanos(y as u64),
        log: true,
        series: vec![
            line("median", false, |h| h.value_at_quantile(0.5)),
            line("99th percentile", false, |h| h.value_at_quantile(0.99)),
            line("slowest", true, |h| h.max()),
        ],
    }
}

fn table(found: &Findings, out: &mut String) {
    *out += "<table><tr><th>commit</th><th>size</th><th>per second</th>";
    for (name, _) in PERCENTILES {
        let _ = write!(out, "<th>{name}</th>");
    }
    *out += "<th>max</th></tr>";
    for o in &found.outcomes {
        let _ = write!(
            out,
            "<tr><td>{}</td><td>{}</td>",
            escape(&o.lane.to_string()),
            escape(&render::bytes(o.lane.size as u64))
        );
        match &o.refused {
            Some(why) => {
                let _ = write!(out, "<td colspan='7'>refused: {}</td></tr>", escape(why));
            }
            None => {
                let _ = write!(out, "<td>{}</td>", render::grouped(o.rate() as u64));
                for (_, p) in PERCENTILES {
                    let _ = write!(out, "<td>{}</td>", render::nanos(o.at(p)));
                }
                let _ = write!(out, "<td>{}</td></tr>", render::nanos(o.latency.max()));
            }
        }
    }
    *out += "</table>";
}
