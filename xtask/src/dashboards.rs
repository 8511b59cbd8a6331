//! The dashboards of `deploy/grafana`, as data; `deploy/grafana.rs` writes and compares them.
//!
//! In queries `@` stands for the selector of the chosen job and instances, and `~` for the interval
//! of rates.

mod capacity;
mod cluster;
mod delivery;
mod drain;
mod overview;
mod relay;

use serde_json::{Value, json};

/// One dashboard.
pub(crate) struct Dashboard {
    /// The end of its uid, and the name of its file.
    pub(crate) name: &'static str,
    title: &'static str,
    description: &'static str,
    rows: Vec<Row>,
}

/// Panels under a heading.
struct Row {
    title: &'static str,
    panels: Vec<Panel>,
}

/// One panel.
struct Panel {
    title: &'static str,
    description: &'static str,
    kind: &'static str,
    unit: &'static str,
    /// Of the 24 columns.
    width: u32,
    queries: Vec<Query>,
    /// Where it begins to be worth a look, and to be bad; from below.
    thresholds: Option<(f64, f64)>,
    /// Whether low is bad.
    is_falling: bool,
    /// The alert whose page explains it.
    runbook: Option<&'static str>,
}

struct Query {
    expression: String,
    legend: &'static str,
}

/// All of them.
pub(crate) fn all() -> [Dashboard; 6] {
    [
        overview::dashboard(),
        delivery::dashboard(),
        cluster::dashboard(),
        drain::dashboard(),
        capacity::dashboard(),
        relay::dashboard(),
    ]
}

/// Lines over time, in half of the width.
fn graph(title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    Panel {
        title,
        description,
        kind: "timeseries",
        unit,
        width: 12,
        queries: Vec::new(),
        thresholds: None,
        is_falling: false,
        runbook: None,
    }
}

/// One number, in an eighth of the width.
fn number(title: &'static str, unit: &'static str, description: &'static str) -> Panel {
    Panel { kind: "stat", width: 3, ..graph(title, unit, description) }
}

impl Panel {
    /// With a query more; each of its series is called as `legend` says.
    fn line(mut self, legend: &'static str, expression: &str) -> Self {
        let selector = "job=\"$job\",instance=~\"$instance\"";
        let expression = expression.replace('@', selector).replace('~', "$__rate_interval");
        // `=~` is no interval.
        let expression = expression.replace("=$__rate_interval", "=~");
        self.queries.push(Query { expression, legend });
        self
    }

    /// The 50th, 99th and 99.9th percentile of a histogram.
    fn percentiles(self, metric: &str) -> Self {
        let of = |share: &str| {
            format!("histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{@}}[~])))")
        };
        self.line("50 %", &of("0.5")).line("99 %", &of("0.99")).line("99.9 %", &of("0.999"))
    }

    fn width(self, width: u32) -> Self {
        Self { width, ..self }
    }

    /// Yellow from the first on, red from the second.
    fn warn(self, from: f64, bad: f64) -> Self {
        Self { thresholds: Some((from, bad)), ..self }
    }

    /// Red below the first, yellow below the second.
    fn warn_below(self, bad: f64, from: f64) -> Self {
        Self { thresholds: Some((bad, from)), is_falling: true, ..self }
    }

    fn runbook(self, alert: &'static str) -> Self {
        Self { runbook: Some(alert), ..self }
    }

    fn height(&self) -> u32 {
        if self.kind == "stat" { 4 } else { 8 }
    }

    fn json(&self, id: u32, x: u32, y: u32) -> Value {
        let targets = self.queries.iter().enumerate().map(|(at, query)| {
            json!({
                "refId": char::from(b'A' + u8::try_from(at).expect("there are few")).to_string(),
                "datasource": datasource(),
                "expr": query.expression,
                "legendFormat": query.legend,
                "range": true,
            })
        });
        let links = self.runbook.iter().map(|alert| {
            json!({ "title": alert, "url": format!("{RUNBOOKS}{alert}.md"), "targetBlank": true })
        });
        json!({
            "id": id,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": { "x": x, "y": y, "w": self.width, "h": self.height() },
            "targets": targets.collect::<Vec<_>>(),
            "links": links.collect::<Vec<_>>(),
            "fieldConfig": { "defaults": self.defaults(), "overrides": [] },
            "options": self.options(),
        })
    }

    fn defaults(&self) -> Value {
        let colours = if self.is_falling { ["red", "yellow", "green"] } else { COLOURS };
        let mut steps = vec![json!({ "color": "green", "value": null })];
        if let Some((first, second)) = self.thresholds {
            steps = vec![
                json!({ "color": colours[0], "value": null }),
                json!({ "color": colours[1], "value": first }),
                json!({ "color": colours[2], "value": second }),
            ];
        }
        let mut defaults = json!({
            "unit": self.unit,
            "min": 0,
            "thresholds": { "mode": "absolute", "steps": steps },
            "color": { "mode": if self.kind == "stat" { "thresholds" } else { "palette-classic" } },
        });
        if self.kind == "timeseries" {
            let lines = if self.thresholds.is_some() { "dashed" } else { "off" };
            defaults["custom"] = json!({
                "lineWidth": 1,
                "fillOpacity": 8,
                "showPoints": "never",
                "thresholdsStyle": { "mode": lines },
            });
        }
        defaults
    }

    fn options(&self) -> Value {
        if self.kind == "stat" {
            return json!({
                "reduceOptions": { "calcs": ["lastNotNull"], "fields": "", "values": false },
                "colorMode": "value",
                "graphMode": "area",
            });
        }
        json!({
            "legend": { "displayMode": "list", "placement": "bottom", "showLegend": true },
            "tooltip": { "mode": "multi", "sort": "desc" },
        })
    }
}

impl Dashboard {
    /// As Grafana imports it.
    pub(crate) fn json(&self) -> Value {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        let mut next_id = || {
            id += 1;
            id
        };
        for row in &self.rows {
            panels.push(json!({
                "id": next_id(),
                "type": "row",
                "title": row.title,
                "collapsed": false,
                "gridPos": { "x": 0, "y": y, "w": COLUMNS, "h": 1 },
                "panels": [],
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in &row.panels {
                if x + panel.width > COLUMNS {
                    (x, y, height) = (0, y + height, 0);
                }
                panels.push(panel.json(next_id(), x, y));
                x += panel.width;
                height = height.max(panel.height());
            }
            y += height;
        }
        json!({
            "uid": format!("fanlight-{}", self.name),
            "title": format!("Fanlight / {}", self.title),
            "description": self.description,
            "tags": ["fanlight"],
            "schemaVersion": 39,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": { "from": "now-3h", "to": "now" },
            "timezone": "browser",
            "links": [{
                "type": "dashboards",
                "title": "Fanlight",
                "tags": ["fanlight"],
                "asDropdown": false,
                "includeVars": true,
                "keepTime": true,
            }],
            "annotations": { "list": [deployments()] },
            "templating": { "list": variables() },
            "panels": panels,
        })
    }
}

fn variables() -> Value {
    let choice = |name: &str, label: &str, query: &str, is_list: bool| {
        json!({
            "name": name,
            "label": label,
            "type": "query",
            "datasource": datasource(),
            "query": { "query": query, "refId": name },
            "definition": query,
            "refresh": 2,
            "sort": 1,
            "multi": is_list,
            "includeAll": is_list,
            "allValue": if is_list { json!(".*") } else { Value::Null },
            "current": if is_list {
                json!({ "text": ["All"], "value": ["$__all"] })
            } else {
                json!({})
            },
        })
    };
    json!([
        { "name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus" },
        choice("job", "Job", "label_values(fanlight_build_info, job)", false),
        choice(
            "instance",
            "Node",
            "label_values(fanlight_build_info{job=\"$job\"}, instance)",
            true,
        ),
    ])
}

/// Marks where nodes begin to drain.
fn deployments() -> Value {
    json!({
        "name": "Drains",
        "datasource": datasource(),
        "enable": true,
        "iconColor": "purple",
        "expr": "fanlight_draining{job=\"$job\"} == 1",
        "titleFormat": "drains",
        "textFormat": "{{instance}}",
    })
}

fn datasource() -> Value {
    json!({ "type": "prometheus", "uid": "${datasource}" })
}

const COLUMNS: u32 = 24;
const COLOURS: [&str; 3] = ["green", "yellow", "red"];
const RUNBOOKS: &str = "https://github.com/fanlight-io/fanlight/blob/main/docs/runbooks/";
