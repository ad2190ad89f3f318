//! Lines in a frame, as SVG.

use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 400.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 76.0;
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A plot.
pub struct Plot {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Powers of ten are equally far from each other.
    pub log_x: bool,
    /// Names and points.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

/// From values to places on the page.
struct Frame {
    log_x: bool,
    low: f64,
    high: f64,
    /// Upper end of the y axis, and the distance of its marks.
    top: f64,
    step: f64,
}

impl Frame {
    fn new(plot: &Plot) -> Frame {
        let points = || plot.lines.iter().flat_map(|(_, points)| points);
        let place = |x: f64| if plot.log_x { x.max(1e-9).log10() } else { x };
        let low = if plot.log_x { points().map(|(x, _)| place(*x)).fold(f64::MAX, f64::min) } else { 0.0 };
        let high = points().map(|(x, _)| place(*x)).fold(low + 1e-9, f64::max);
        let most = points().map(|(_, y)| *y).fold(1e-9, f64::max);
        let step = round_step(most);
        Frame { log_x: plot.log_x, low, high, top: step * (most / step).ceil(), step }
    }

    fn x(&self, x: f64) -> f64 {
        let place = if self.log_x { x.max(1e-9).log10() } else { x };
        LEFT + (place - self.low) / (self.high - self.low) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, y: f64) -> f64 {
        HEIGHT - BOTTOM - y / self.top * (HEIGHT - TOP - BOTTOM)
    }

    fn columns(&self) -> Vec<f64> {
        if self.log_x {
            return (self.low.floor() as i32..=self.high.ceil() as i32)
                .map(|power| 10f64.powi(power))
                .filter(|x| (self.low - 1e-6..=self.high + 1e-6).contains(&x.log10()))
                .collect();
        }
        let step = round_step(self.high);
        (0..=(self.high / step) as u32).map(|column| f64::from(column) * step).collect()
    }
}

/// A round number of which four to ten go into `most`.
fn round_step(most: f64) -> f64 {
    let power = 10f64.powf((most / 4.0).log10().floor());
    [5.0, 2.0].iter().map(|times| power * times).find(|step| most / step >= 4.0).unwrap_or(power)
}

fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn text(x: f64, y: f64, anchor: &str, text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    format!("<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>\n")
}

impl Plot {
    /// The picture.
    pub fn svg(&self) -> String {
        let frame = Frame::new(self);
        let bottom = HEIGHT - BOTTOM;
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" \
             font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
        );
        out += &text(WIDTH / 2.0, 18.0, "middle", &self.title);
        out += &text((LEFT + WIDTH - RIGHT) / 2.0, bottom + 34.0, "middle", &self.x);
        out += &text(8.0, TOP - 8.0, "start", &self.y);
        for row in 0..=(frame.top / frame.step).round() as u32 {
            let value = f64::from(row) * frame.step;
            let y = frame.y(value);
            out += &text(LEFT - 6.0, y + 4.0, "end", &number(value));
            let _ = writeln!(out, "<path d=\"M{LEFT} {y:.1}H{}\" stroke=\"#ddd\"/>", WIDTH - RIGHT);
        }
        for value in frame.columns() {
            let x = frame.x(value);
            out += &text(x, bottom + 16.0, "middle", &number(value));
            let _ = writeln!(out, "<path d=\"M{x:.1} {TOP}V{bottom}\" stroke=\"#ddd\"/>");
        }
        let mut key = LEFT;
        for (index, (name, points)) in self.lines.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let y = HEIGHT - 16.0;
            let _ = writeln!(out, "<path d=\"M{key:.1} {y}h20\" stroke=\"{colour}\" stroke-width=\"2\"/>");
            out += &text(key + 24.0, y + 4.0, "start", name);
            key += 44.0 + 7.0 * name.chars().count() as f64;
            let places: Vec<String> =
                points.iter().map(|(x, y)| format!("{:.1},{:.1}", frame.x(*x), frame.y(*y))).collect();
            let places = places.join(" ");
            let _ =
                writeln!(out, "<polyline points=\"{places}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        }
        out + "</svg>\n"
    }
}
