//! Grouped bars as SVG: a group for each variant, a bar for each server, whiskers for the spread.

use std::fmt::Write;

use super::Spread;
use crate::metric::Metric;

/// One bar.
pub struct Bar {
    /// What it is beside.
    pub group: String,
    /// Whose it is.
    pub series: String,
    /// How high.
    pub spread: Spread,
}

/// The plot.
pub fn svg(title: &str, metric: Metric, bars: &[Bar]) -> String {
    let groups = distinct(bars.iter().map(|bar| bar.group.as_str()));
    let series = distinct(bars.iter().map(|bar| bar.series.as_str()));
    let group_width = series.len() as f64 * BAR_WIDTH + GAP;
    let width = (LEFT + groups.len() as f64 * group_width + RIGHT).max(MIN_WIDTH);
    let scale = Scale::of(bars);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{HEIGHT:.0}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{}: {}</text>\n",
        escaped(title),
        escaped(metric.heading())
    );
    for tick in scale.ticks() {
        let y = scale.y(tick);
        let _ = writeln!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            width - RIGHT,
            LEFT - 6.0,
            y + 4.0,
            Metric::shown(tick)
        );
    }
    for bar in bars {
        let of = |names: &[&str], name: &str| names.iter().position(|&other| other == name);
        let (group, at) = (of(&groups, &bar.group), of(&series, &bar.series));
        let (group, at) = (group.unwrap_or_default(), at.unwrap_or_default());
        let x = LEFT + GAP / 2.0 + group as f64 * group_width + at as f64 * BAR_WIDTH;
        draw_bar(&mut out, &scale, bar, x, COLOURS[at % COLOURS.len()]);
    }
    for (at, group) in groups.iter().enumerate() {
        let x = LEFT + (at as f64 + 0.5) * group_width;
        let y = BOTTOM + 18.0;
        let group = escaped(group);
        let _ = writeln!(out, "<text x=\"{x:.0}\" y=\"{y}\" text-anchor=\"middle\">{group}</text>");
    }
    for (at, name) in series.iter().enumerate() {
        let x = LEFT + at as f64 * LEGEND_WIDTH;
        let colour = COLOURS[at % COLOURS.len()];
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"{}\">{}</text>",
            BOTTOM + 32.0,
            x + 15.0,
            BOTTOM + 41.0,
            escaped(name)
        );
    }
    out + "</svg>\n"
}

fn draw_bar(out: &mut String, scale: &Scale, bar: &Bar, x: f64, colour: &str) {
    let [min, median, max] =
        [bar.spread.min, bar.spread.median, bar.spread.max].map(|value| scale.y(value));
    let middle = x + BAR_WIDTH / 2.0 - 2.0;
    let _ = writeln!(
        out,
        "<rect x=\"{x:.1}\" y=\"{median:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\">\
         <title>{}</title></rect>\
         <line x1=\"{middle:.1}\" x2=\"{middle:.1}\" y1=\"{max:.1}\" y2=\"{min:.1}\" stroke=\"#000\"/>\
         <text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\" font-size=\"9\">{}</text>",
        BAR_WIDTH - 4.0,
        BOTTOM - median,
        escaped(&bar.series),
        max - 4.0,
        Metric::shown(bar.spread.median)
    );
}

/// From values to heights: by logarithm where values differ much.
struct Scale {
    from: f64,
    to: f64,
    is_logarithmic: bool,
}

impl Scale {
    fn of(bars: &[Bar]) -> Self {
        let medians = || bars.iter().map(|bar| bar.spread.median).filter(|&value| value > 0.0);
        let smallest = medians().fold(f64::INFINITY, f64::min);
        let largest = bars.iter().map(|bar| bar.spread.max).fold(0.0, f64::max);
        let largest = if largest > 0.0 { largest } else { 1.0 };
        let is_logarithmic = largest / smallest > 20.0;
        if is_logarithmic {
            let from = 10f64.powf((smallest / 2.0).log10().floor());
            let to = 10f64.powf(largest.log10().ceil());
            return Self { from, to, is_logarithmic };
        }
        Self { from: 0.0, to: largest * 1.1, is_logarithmic }
    }

    fn y(&self, value: f64) -> f64 {
        let share = if self.is_logarithmic {
            (value.max(self.from) / self.from).ln() / (self.to / self.from).ln()
        } else {
            value / self.to
        };
        BOTTOM - share * (BOTTOM - TOP)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.is_logarithmic {
            let ticks = std::iter::successors(Some(self.from), |tick| Some(tick * 10.0));
            return ticks.take_while(|&tick| tick <= self.to * 1.001).collect();
        }
        (0..=4).map(|quarter| self.to * f64::from(quarter) / 4.0).collect()
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut distinct = Vec::new();
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

const COLOURS: [&str; 6] = ["#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d6a9f", "#555555"];
const HEIGHT: f64 = 380.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 320.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
const MIN_WIDTH: f64 = 560.0;
const BAR_WIDTH: f64 = 34.0;
const GAP: f64 = 30.0;
const LEGEND_WIDTH: f64 = 130.0;

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(series: &str, median: f64) -> Bar {
        let spread = Spread { min: median, median, max: median };
        Bar { group: "100".into(), series: series.into(), spread }
    }

    #[test]
    fn each_server_has_a_bar_and_a_place_in_the_legend() {
        let plot = svg("Fan-out", Metric::DeliverP50Ms, &[bar("a", 1.0), bar("b<", 2.0)]);
        assert_eq!(plot.matches("<title>").count(), 2);
        assert_eq!(plot.matches("b&lt;").count(), 2);
    }

    #[test]
    fn values_far_apart_are_drawn_by_their_logarithm() {
        let scale = Scale::of(&[bar("a", 700.0), bar("b", 130_000.0)]);
        assert_eq!((scale.from, scale.to), (100.0, 1_000_000.0));
        assert!(scale.y(700.0) < scale.y(100.0) && scale.y(130_000.0) < scale.y(700.0));
        assert!(!Scale::of(&[bar("a", 1.0), bar("b", 2.0)]).is_logarithmic);
    }

    #[test]
    fn no_bars_make_an_empty_plot() {
        assert!(svg("Nothing", Metric::Lost, &[]).ends_with("</svg>\n"));
    }
}
