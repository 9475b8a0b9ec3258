//! Results as a Markdown table, CSV, JSON or SQL, in llama-bench's form.

use super::cost::Limits;
use super::record::{BUILD_COMMIT, BUILD_NUMBER, FIELDS, FLOOR_FIELDS, Kind, Reached, Record, SIMD_FIELD, Value};
use crate::Error;
use crate::args::bench::OutputFormat;
use crate::args::value::cache_type_name;
use std::io::Write;

/// What is shown besides the usual.
#[derive(Clone, Debug, Default)]
pub(super) struct Columns {
    pub n_batch: bool,
    pub n_ubatch: bool,
    /// K's and V's.
    pub cache_types: [bool; 2],
    pub load_mode: bool,
    pub repack: bool,
    pub simd: bool,
    pub gpu_layers: bool,
    pub floor: bool,
}

/// Where results go.
pub(super) struct Printer {
    format: OutputFormat,
    sink: Box<dyn Write>,
    columns: Columns,
    /// Whether the header is out, and how many records.
    begun: Option<usize>,
    /// Width of the first column.
    model_width: usize,
    limits: Vec<Limits>,
    /// Whether a test was faster than a limit.
    beyond: bool,
}

/// A column of the table: title, width, whether it is aligned to the left, and the cell of a record.
struct Column {
    title: &'static str,
    width: usize,
    left: bool,
    cell: fn(&Record) -> String,
}

const fn column(title: &'static str, width: usize, left: bool, cell: fn(&Record) -> String) -> Column {
    Column { title, width, left, cell }
}

impl Printer {
    pub(super) fn new(format: OutputFormat, sink: Box<dyn Write>, columns: Columns) -> Printer {
        Printer { format, sink, columns, begun: None, model_width: 30, limits: Vec::new(), beyond: false }
    }

    /// Before the first record, which is that of a model with this name; more often does nothing.
    pub(super) fn header(&mut self, model_type: &str) -> Result<(), Error> {
        if self.begun.is_some() {
            return Ok(());
        }
        self.begun = Some(0);
        self.model_width = self.model_width.max(model_type.chars().count());
        let text = match self.format {
            OutputFormat::None | OutputFormat::Jsonl => String::new(),
            OutputFormat::Csv => self.fields().map(|(name, _)| name).collect::<Vec<_>>().join(",") + "\n",
            OutputFormat::Json => "[\n".into(),
            OutputFormat::Md => self.table_header(),
            OutputFormat::Sql => {
                let fields: Vec<_> = self.fields().map(|(name, kind)| format!("  {name} {}", sql_type(kind))).collect();
                format!("CREATE TABLE IF NOT EXISTS llama_bench (\n{}\n);\n\n", fields.join(",\n"))
            }
        };
        self.write(&text)
    }

    /// The limits of the machine, which are told at the end of a table.
    pub(super) fn limits(&mut self, limits: &Limits) {
        self.limits.push(limits.clone());
    }

    pub(super) fn record(&mut self, record: &Record) -> Result<(), Error> {
        self.header(&record.model_type)?;
        let n = self.begun.unwrap_or_default();
        self.begun = Some(n + 1);
        self.beyond |= record.is_beyond_limit();
        let text = match self.format {
            OutputFormat::None => String::new(),
            OutputFormat::Csv => {
                let values: Vec<_> = self.values(record).iter().map(|v| quoted(&plain(v), '"')).collect();
                values.join(",") + "\n"
            }
            OutputFormat::Json => {
                let pairs: Vec<_> = self.pairs(record).map(|(name, json)| format!("    \"{name}\": {json}")).collect();
                format!("{}  {{\n{}\n  }}", if n > 0 { ",\n" } else { "" }, pairs.join(",\n"))
            }
            OutputFormat::Jsonl => {
                let pairs: Vec<_> = self.pairs(record).map(|(name, json)| format!("\"{name}\": {json}")).collect();
                format!("{{{}}}\n", pairs.join(", "))
            }
            OutputFormat::Md => {
                let cells = self.table().into_iter().map(|c| pad(&(c.cell)(record), c.width, c.left));
                format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
            }
            OutputFormat::Sql => {
                let names: Vec<_> = self.fields().map(|(name, _)| name).collect();
                let values = self.values(record);
                let sql = |v: &Value| if *v == Value::Null { "NULL".into() } else { quoted(&plain(v), '\'') };
                let values: Vec<_> = values.iter().map(sql).collect();
                format!("INSERT INTO llama_bench ({}) VALUES ({});\n", names.join(", "), values.join(", "))
            }
        };
        self.write(&text)
    }

    /// After the last record.
    pub(super) fn footer(&mut self) -> Result<(), Error> {
        let Some(n) = self.begun else { return Ok(()) };
        let text = match self.format {
            OutputFormat::Json => if n > 0 { "\n]\n" } else { "]\n" }.into(),
            OutputFormat::Md => {
                let mut text = format!("\nbuild: {BUILD_COMMIT} ({BUILD_NUMBER})\n");
                for Limits { what, memory_gbs, model_gbs, int8_tops } in &self.limits {
                    let model = model_gbs.map(|gbs| format!(", {gbs:.2} GB/s from the model")).unwrap_or_default();
                    text +=
                        &format!("floor: {memory_gbs:.2} GB/s from memory{model}, {int8_tops:.3} TOPS int8 ({what})\n");
                }
                if self.beyond {
                    text += "More than 100 %: other programs were running while the floor was measured.\n";
                }
                text
            }
            _ => String::new(),
        };
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> Result<(), Error> {
        self.sink.write_all(text.as_bytes()).and_then(|()| self.sink.flush()).map_err(Error::Output)
    }

    fn fields(&self) -> impl Iterator<Item = (&'static str, Kind)> {
        let floor = if self.columns.floor { FLOOR_FIELDS } else { &[] };
        FIELDS.iter().copied().chain(self.columns.simd.then_some(SIMD_FIELD)).chain(floor.iter().copied())
    }

    fn values(&self, record: &Record) -> Vec<Value> {
        let mut values = record.values();
        if self.columns.simd {
            values.push(Value::Text(record.simd.clone()));
        }
        if self.columns.floor {
            values.extend(record.floor_values());
        }
        values
    }

    /// Names and JSON of all fields and samples.
    fn pairs(&self, record: &Record) -> impl Iterator<Item = (&'static str, String)> {
        let list = |items: Vec<String>| format!("[ {} ]", items.join(", "));
        let ns = list(record.samples_ns.iter().map(u64::to_string).collect());
        let ts = list(record.samples_ts().iter().map(|ts| format!("{ts:.6}")).collect());
        let json = self.values(record).into_iter().map(|v| match v {
            Value::Text(text) => serde_json::Value::from(text).to_string(),
            Value::Bool(yes) => yes.to_string(),
            Value::Null => "null".into(),
            other => plain(&other),
        });
        let pairs: Vec<_> = self.fields().map(|(name, _)| name).zip(json).collect();
        pairs.into_iter().chain([("samples_ns", ns), ("samples_ts", ts)])
    }

    fn table(&self) -> Vec<Column> {
        let mut all = vec![
            column("model", self.model_width, true, |r| r.model_type.clone()),
            column("size", 10, false, |r| size(r.model_size)),
            column("params", 10, false, |r| params(r.model_n_params)),
            column("backend", 10, true, |r| r.backend.into()),
        ];
        if self.columns.gpu_layers {
            all.push(column("ngl", 3, false, |r| r.n_gpu_layers.to_string()));
        }
        all.push(column("threads", 7, false, |r| r.n_threads.to_string()));
        if self.columns.n_batch {
            all.push(column("n_batch", 7, false, |r| r.test.n_batch.to_string()));
        }
        if self.columns.n_ubatch {
            all.push(column("n_ubatch", 8, false, |r| r.test.n_ubatch.to_string()));
        }
        if self.columns.cache_types[0] {
            all.push(column("type_k", 6, false, |r| cache_type_name(r.test.cache_types[0])));
        }
        if self.columns.cache_types[1] {
            all.push(column("type_v", 6, false, |r| cache_type_name(r.test.cache_types[1])));
        }
        if self.columns.load_mode {
            all.push(column("load_mode", 10, true, |r| r.load_mode.clone()));
        }
        if self.columns.repack {
            all.push(column("repack", 6, true, |r| u8::from(r.repack).to_string()));
        }
        if self.columns.simd {
            all.push(column("simd", 10, true, |r| r.simd.clone()));
        }
        all.push(column("test", 15, false, Record::test_name));
        all.push(column("t/s", 20, false, |r| {
            let (mean, stddev) = r.ts();
            format!("{mean:.2} ± {stddev:.2}")
        }));
        if self.columns.floor {
            all.push(column("reached", 12, false, |r| match r.reached() {
                Some(Reached::Gbs(gbs)) => format!("{gbs:.2} GB/s"),
                Some(Reached::Tops(tops)) => format!("{tops:.3} TOPS"),
                None => "-".into(),
            }));
            all.push(column("% of floor", 10, false, |r| {
                r.percent().map_or_else(|| "-".into(), |percent| format!("{percent:.1}"))
            }));
        }
        all
    }

    fn table_header(&self) -> String {
        let (mut titles, mut rule) = (String::from("|"), String::from("|"));
        for Column { title, width, left, .. } in self.table() {
            titles += &format!(" {} |", pad(title, width, left));
            rule += &format!(" {}{} |", "-".repeat(width - 1), if left { '-' } else { ':' });
        }
        format!("{titles}\n{rule}\n")
    }
}

fn pad(text: &str, width: usize, left: bool) -> String {
    if left { format!("{text:<width$}") } else { format!("{text:>width$}") }
}

fn size(bytes: u64) -> String {
    let mib = bytes as f64 / 1024.0 / 1024.0;
    if mib < 1024.0 { format!("{mib:.2} MiB") } else { format!("{:.2} GiB", mib / 1024.0) }
}

fn params(n: u64) -> String {
    let n = n as f64;
    if n < 1e9 { format!("{:.2} M", n / 1e6) } else { format!("{:.2} B", n / 1e9) }
}

/// As in CSV and SQL, where bools are numbers.
fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Bool(yes) => u8::from(*yes).to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => format!("{x:.6}"),
        Value::Null => String::new(),
    }
}

fn quoted(text: &str, quote: char) -> String {
    let twice = format!("{quote}{quote}");
    format!("{quote}{}{quote}", text.replace(quote, &twice))
}

fn sql_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "TEXT",
        Kind::Bool | Kind::Int => "INTEGER",
        Kind::Float => "REAL",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_units() {
        assert_eq!(size(3_550_208), "3.39 MiB");
        assert_eq!(size(1 << 30), "1.00 GiB");
        assert_eq!(params(5_800_000), "5.80 M");
        assert_eq!(params(2_410_000_000), "2.41 B");
    }

    #[test]
    fn quotes_are_doubled() {
        assert_eq!(quoted("a \"b\"", '"'), "\"a \"\"b\"\"\"");
        assert_eq!(quoted("it's", '\''), "'it''s'");
    }
}
