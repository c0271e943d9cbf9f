//! All numbers as Prometheus reads them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use oriel_engine::store::{Kind, Latencies, METRICS, Metric, Sample, Value};
use oriel_spdk::nvmf::Connections;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::look::{Identity, Look};
use super::record::Reloads;

const KIND: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Upper ends of the buckets that times are shown in, in microseconds: from what memory takes to what nobody waits for.
const BUCKETS_US: [u64; 18] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 50_000, 100_000, 500_000,
    1_000_000, 10_000_000,
];

pub(super) fn text(identity: &Identity, look: &Arc<Look>) -> (&'static str, Option<String>) {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Figures {
        look: Arc::clone(look),
        reloads: identity.record.all(),
    }));
    let mut text = String::new();
    let written = encode(&mut text, &registry);
    (KIND, written.ok().map(|()| text))
}

struct Figures {
    look: Arc<Look>,
    reloads: Reloads,
}

impl fmt::Debug for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Figures")
    }
}

impl Collector for Figures {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Look {
            metrics,
            queues,
            connections,
            ..
        } = &*self.look;
        // The samples of one metric have to stand together.
        let mut by_name: BTreeMap<&str, Vec<Sample<'_>>> = BTreeMap::new();
        metrics.samples(&mut |sample| by_name.entry(sample.metric.name).or_default().push(sample));
        for metric in METRICS {
            let Some(samples) = by_name.get(metric.name) else {
                continue;
            };
            let mut family = descriptor(&mut encoder, metric)?;
            for sample in samples {
                let labels: Vec<(&str, &str)> = metric
                    .labels
                    .iter()
                    .copied()
                    .zip(sample.labels.iter().map(String::as_str))
                    .collect();
                one(family.encode_family(&labels)?, metric, sample.value)?;
            }
        }
        let mut ever = encoder.encode_descriptor(
            "oriel_target_queues",
            "queues of hosts that were ever connected",
            None,
            MetricType::Counter,
        )?;
        for (core, stat) in queues {
            let core = core.to_string();
            for (kind, count) in [
                ("admin", stat.admin_queues_total),
                ("io", stat.io_queues_total),
            ] {
                let labels = [("core", &*core), ("kind", kind)];
                counter(ever.encode_family(&labels)?, count)?;
            }
        }
        let mut now = encoder.encode_descriptor(
            "oriel_target_connected_queues",
            "queues of hosts that are connected, where SPDK says so",
            None,
            MetricType::Gauge,
        )?;
        for (core, stat) in queues {
            let core = core.to_string();
            for (kind, count) in [("admin", stat.admin_queues), ("io", stat.io_queues)] {
                if let Some(count) = count {
                    let labels = [("core", &*core), ("kind", kind)];
                    now.encode_family(&labels)?.encode_gauge(&signed(count))?;
                }
            }
        }
        self::connections(&mut encoder, connections)?;
        reloads(&mut encoder, &self.reloads)
    }
}

fn connections(encoder: &mut DescriptorEncoder<'_>, of: &Connections) -> fmt::Result {
    let gauges = [
        (
            "oriel_target_connections",
            "queues of hosts that are connected",
            Some(of.open()),
        ),
        (
            "oriel_target_connections_max",
            "the most of them, where there is a limit",
            of.most(),
        ),
    ];
    for (name, help, value) in gauges {
        if let Some(value) = value {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            gauge.encode_gauge(&signed(value.into()))?;
        }
    }
    let refused = encoder.encode_descriptor(
        "oriel_target_refused_connections",
        "queues of hosts that were one too many",
        None,
        MetricType::Counter,
    )?;
    counter(refused, of.refused())
}

fn reloads(encoder: &mut DescriptorEncoder<'_>, reloads: &Reloads) -> fmt::Result {
    let mut counts = encoder.encode_descriptor(
        "oriel_node_reloads",
        "times that the configuration was read again",
        None,
        MetricType::Counter,
    )?;
    for (result, count) in [("done", reloads.done), ("refused", reloads.refused)] {
        counter(counts.encode_family(&[("result", result)])?, count)?;
    }
    let Some(last) = &reloads.last else {
        return Ok(());
    };
    let mut gauge = |name, help, value: u64| {
        let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        gauge.encode_gauge(&signed(value))
    };
    gauge(
        "oriel_node_last_reload_successful",
        "1 if the configuration was taken over when it was last read again, else 0",
        last.is_done.into(),
    )?;
    gauge(
        "oriel_node_last_reload_timestamp_seconds",
        "when it was last read again, since 1970",
        last.unix_seconds(),
    )
}

fn descriptor<'a>(
    encoder: &'a mut DescriptorEncoder<'_>,
    metric: &'static Metric,
) -> Result<MetricEncoder<'a>, fmt::Error> {
    let (name, kind) = match metric.kind {
        // The encoder writes the end of the name itself.
        Kind::Counter => {
            let name = metric.name.strip_suffix("_total");
            (name.unwrap_or(metric.name), MetricType::Counter)
        }
        Kind::Gauge => (metric.name, MetricType::Gauge),
        Kind::Histogram => (metric.name, MetricType::Histogram),
    };
    encoder.encode_descriptor(name, metric.help, None, kind)
}

fn one(mut to: MetricEncoder<'_>, metric: &Metric, value: Value<'_>) -> fmt::Result {
    match (value, metric.kind) {
        (Value::Number(count), Kind::Counter) => counter(to, count),
        (Value::Real(value), Kind::Counter) => {
            to.encode_counter::<NoLabelSet, f64, f64>(&value, None)
        }
        (Value::Number(count), _) => to.encode_gauge(&signed(count)),
        (Value::Real(value), _) => to.encode_gauge(&value),
        (Value::Times(times), _) => {
            let buckets = buckets(times);
            let sum = times.total().as_secs_f64();
            to.encode_histogram::<NoLabelSet>(sum, times.count(), &buckets, None)
        }
    }
}

fn counter(mut to: MetricEncoder<'_>, count: u64) -> fmt::Result {
    to.encode_counter::<NoLabelSet, u64, f64>(&count, None)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Upper ends in seconds, and how many times are in each and not in the one before.
fn buckets(times: &Latencies) -> Vec<(f64, u64)> {
    let ends = BUCKETS_US.map(Duration::from_micros);
    let mut before = 0;
    let mut all: Vec<(f64, u64)> = ends
        .iter()
        .map(|end| {
            let within = times.within(*end);
            let more = within - before;
            before = within;
            (end.as_secs_f64(), more)
        })
        .collect();
    all.push((f64::INFINITY, times.count() - before));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_one_bucket() {
        let mut times = Latencies::default();
        for micros in [0, 1, 3, 70, 4000, 20_000_000] {
            times.record(Duration::from_micros(micros));
        }
        let buckets = buckets(&times);
        assert_eq!(buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
        assert_eq!(buckets.last().unwrap(), &(f64::INFINITY, 1));
        assert!(buckets.windows(2).all(|two| two[0].0 < two[1].0));
        assert_eq!(buckets[6], (1e-4, 1));
    }
}
