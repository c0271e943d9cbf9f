//! What a store has counted, as lines to read.

use std::time::Duration;

use oriel_engine::store::{LogMetrics, Sample, Summary, Value};

/// All numbers that are not zero. The drive's name is left out: there is one.
pub(super) fn lines(metrics: &LogMetrics) -> Vec<String> {
    let mut lines = Vec::new();
    metrics.samples("", &mut |sample| lines.extend(line(&sample)));
    lines
}

fn line(sample: &Sample<'_>) -> Option<String> {
    let labels = sample.metric.labels.iter().zip(&sample.labels);
    let labels: Vec<String> = labels
        .filter(|(_, value)| !value.is_empty())
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let value = match sample.value {
        Value::Number(0) => return None,
        Value::Number(number) => number.to_string(),
        Value::Real(number) => format!("{number:.3}"),
        Value::Times(times) => {
            let Summary {
                count,
                mean,
                p50,
                p99,
                p999,
                max,
            } = times.summary();
            let us = |time: Duration| time.as_nanos() as f64 / 1e3;
            format!(
                "{count} timed: mean {:.1} us, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, max {:.1}",
                us(mean),
                us(p50),
                us(p99),
                us(p999),
                us(max)
            )
        }
    };
    let name = sample.metric.name.trim_start_matches("oriel_store_");
    Some(format!("    {name:<32} {:<36} {value}", labels.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_zero_is_left_out() {
        let mut metrics = LogMetrics::default();
        metrics.free_blocks = 7;
        let lines = lines(&metrics);
        let line = |name: &str| lines.iter().find(|line| line.contains(name));
        assert!(line("free_blocks").is_some_and(|line| line.ends_with(" 7")));
        assert_eq!(line("live_blocks"), None);
        assert_eq!(line("drive="), None);
    }
}
