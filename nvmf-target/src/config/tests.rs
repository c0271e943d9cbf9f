//! What is read, printed and refused.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;

const GOOD: &str = r#"node = "n1"
store = "00112233445566778899aabbccddeeff"

[[device]]
path = "drive"

[[listener]]
address = "127.0.0.1:4420"

[[realm]]
name = "models"
id = 1
hosts = "any"

[[realm]]
name = "cache"
id = 2
hosts = ["nqn.2016-06.io.oriel:gpu7"]
quota_mib = 64
cache = "s3-fifo"
verify = true

[status]
address = "[::1]:9420"
"#;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("etc/node.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn what_is_read_is_printed_with_all_that_was_left_out() {
    let config = parse(GOOD).unwrap();
    assert_eq!(config.devices, [Device::Path(PathBuf::from("etc/drive"))]);
    assert!(config.drains.is_empty() && config.gone.is_empty());
    assert_eq!(config.realms[1].options.quota_blocks, Some(64 * 256));
    assert_eq!(config.status, Some("[::1]:9420".parse().unwrap()));
    assert!(!config.realms[0].options.verify && config.realms[1].options.verify);
    let text = config.text();
    let again = Config::parse(Path::new("node.toml"), &text).unwrap();
    assert_eq!((again.text(), &again), (text, &config));
}

/// Whoever begins with it is not to be refused.
#[test]
fn the_configuration_of_the_documents_is_right() {
    let document = include_str!("../../../docs/node.md");
    let text = document.split("```toml\n").nth(1).unwrap();
    // The machine of this test may have one core alone.
    let text = text.split("```").next().unwrap();
    let text = text.replace("cores = \"0-1\"", "cores = \"0\"");
    let config = parse(&text).unwrap();
    let realms = config.realms.iter().map(|realm| &realm.name[..]);
    assert_eq!(realms.collect::<Vec<_>>(), ["models", "kv"]);
    assert_eq!((config.devices.len(), config.listeners.len()), (2, 2));
}

#[test]
fn connections_are_limited_if_somebody_says_so() {
    let most = |text: &str| parse(text).unwrap().connections_max;
    assert_eq!(most(GOOD), None);
    let text = GOOD.replacen("[[device]]", "connections_max = 2\n[[device]]", 1);
    assert_eq!(most(&text), Some(2));
    assert_eq!(most(&parse(&text).unwrap().text()), Some(2));
}

#[test]
fn what_the_store_does_by_itself_has_the_rates_that_somebody_says() {
    let of = |keys: &str| {
        let text = GOOD.replacen(
            "[[device]]",
            &format!("[background]\n{keys}\n[[device]]"),
            1,
        );
        parse(&text).map(|config| {
            let again = Config::parse(Path::new("node.toml"), &config.text());
            assert_eq!(again.unwrap().background, config.background);
            config.background
        })
    };
    assert_eq!(parse(GOOD).unwrap().background, Background::default());
    assert_eq!(of("").unwrap(), Background::default());
    let all =
        of("scrub_mib_per_second = 64\nscrub_round_hours = 24\ncompaction_mib_per_second = 0");
    let expected = Background {
        compaction_bytes_per_second: 0,
        scrub_bytes_per_second: 64 << 20,
        scrub_round: Duration::from_secs(24 * 3600),
    };
    assert_eq!(all.unwrap(), expected);
    for (keys, words) in [
        (
            "scrub_mib_per_second = 70000",
            "or 0, by which nothing is scrubbed",
        ),
        ("compaction_mib_per_second = 18446744073709551615", ""),
        ("compaction_mib_per_second = 65537", "give 65536 at most"),
        ("scrub_mib_per_second = -1", ""),
        ("scrub_round_hours = 0", "give scrub_mib_per_second = 0"),
        (
            "scrub_round_hours = 8761",
            "every 1 to 8760 hours, not every 8761",
        ),
        ("scrub_rounds = 1", "scrub_rounds"),
    ] {
        let refused = of(keys).unwrap_err();
        let is_there = refused.starts_with("etc/node.toml, line 5: ");
        assert!(is_there && refused.contains(words), "{keys}: {refused}");
    }
}

#[test]
fn indexes_lie_in_a_folder_if_somebody_says_so() {
    assert_eq!(parse(GOOD).unwrap().index, None);
    let text = GOOD.replacen("[[device]]", "index = \"kept\"\n[[device]]", 1);
    let config = parse(&text).unwrap();
    assert_eq!(config.index, Some(PathBuf::from("etc/kept")));
    let again = Config::parse(Path::new("node.toml"), &config.text());
    assert_eq!(again.unwrap(), config);
}

#[test]
fn what_a_realm_was_is_said_to_the_store() {
    let text = GOOD.replacen("id = 2\n", "id = 2\nwas = \"old\"\nwas_durable = true\n", 1);
    let config = parse(&text).unwrap();
    let [models, cache] = [&config.realms[0].options, &config.realms[1].options];
    assert_eq!(
        (models.name.as_deref(), &models.was, models.was_durable),
        (Some("models"), &None, false)
    );
    assert_eq!(
        (
            cache.name.as_deref(),
            cache.was.as_deref(),
            cache.was_durable
        ),
        (Some("cache"), Some("old"), true)
    );
    let again = Config::parse(Path::new("node.toml"), &config.text());
    assert_eq!(again.unwrap(), config);
}

#[test]
fn drives_are_emptied_and_given_up() {
    let text = GOOD.replacen(
        "[[device]]",
        "gone = [7, 3]\n[[device]]\npath = \"old\"\ndrain = true\n[[device]]",
        1,
    );
    let config = parse(&text).unwrap();
    let device = |name: &str| Device::Path(Path::new("etc").join(name));
    assert_eq!(config.devices, [device("old"), device("drive")]);
    assert_eq!(config.drains, [device("old")].into());
    assert_eq!(config.gone, [DriveNumber(3), DriveNumber(7)].into());
    let again = Config::parse(Path::new("node.toml"), &config.text());
    assert_eq!(again.unwrap(), config);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let cases = [
        ("node = \"n1\"", "node = n1", 1, ""),
        ("node =", "nodes =", 1, "nodes"),
        ("\"n1\"", "\"n 1\"", 11, "n 1"),
        ("00112233", "0011223", 2, "32 hexadecimal digits"),
        ("path = \"drive\"", "path = 7", 5, "string"),
        (
            "127.0.0.1:4420",
            "0.0.0.0:4420",
            8,
            "name one of this machine's",
        ),
        ("127.0.0.1:4420", "127.0.0.1", 8, ""),
        ("id = 2", "id = 1", 17, "two realms of number 1"),
        ("\"cache\"", "\"models\"", 16, "two realms 'models'"),
        ("\"any\"", "\"all\"", 13, "not \"all\""),
        ("nqn.2016-06", "nqn.16-06", 18, "NVMe qualified name"),
        ("hosts = [", "hosts = [\n7, ", 19, "an NQN"),
        (
            "hosts = [",
            "hosts = [\n\n\"nqn.2016-06.io.oriel:gpu7\",\n",
            21,
            "there twice",
        ),
        ("hosts = \"any\"", "hosts = 7", 13, "a list of hosts"),
        ("quota_mib = 64", "quota_mib = 0", 19, "at least 1"),
        ("id = 2", "was = \"cache\"\nid = 2", 17, "called so already"),
        ("id = 1\n", "id = 1\nwas_durable = true\n", 13, "is durable"),
        ("quota_mib = 64\n", "", 19, "give it a quota_mib"),
        ("s3-fifo", "fifo", 20, "fifo"),
        ("[::1]:9420", "127.0.0.1:4420", 24, "a port of its own"),
        ("[::1]:9420", "[::1]", 24, ""),
        (
            "[[device]]",
            "connections_max = 1\n[[device]]",
            4,
            "2 connections at least",
        ),
        ("path = \"drive\"", "pci = \"3b:00\"", 5, "no PCI address"),
        (
            "[[device]]",
            "index = \"drive\"\n[[device]]",
            4,
            "etc/drive is a device of the node",
        ),
        ("[[device]]", "index = \"\"\n[[device]]", 4, "name one"),
        ("path = \"drive\"", "", 4, "either a path or a pci address"),
        (
            "path = \"drive\"",
            "path = \"drive\"\npci = \"3b:00.0\"",
            4,
            "either a path or a pci address",
        ),
        (
            "[[device]]\npath = \"drive\"",
            "hugepages = false\n[[device]]\npci = \"3b:00.0\"",
            4,
            "need memory from hugepages",
        ),
        (
            "[[device]]\npath = \"drive\"\n\n[[listener]]",
            "hugepages = false\n[[device]]\npath = \"drive\"\n[[listener]]\ntransport = \"rdma\"",
            4,
            "listeners by rdma need memory",
        ),
        (
            "path = \"drive\"",
            "path = \"drive\"\ndrain = true",
            4,
            "no device would take blobs",
        ),
        (
            "[[device]]",
            "[[device]]\npath = \"drive\"\n[[device]]",
            6,
            "etc/drive is there twice",
        ),
        ("4420\"", "4420\"\ntransport = \"udp\"", 9, "udp"),
        (
            "[[listener]]",
            "[[listener]]\naddress = \"127.0.0.1:4420\"\n[[listener]]",
            10,
            "tcp://127.0.0.1:4420 is there twice",
        ),
        (
            "[[device]]",
            "memory_mib = 100\n[[device]]",
            4,
            "at least 512",
        ),
    ];
    for (good, bad, line, word) in cases {
        let text = GOOD.replacen(good, bad, 1);
        assert_ne!(text, GOOD, "{good}");
        let error = parse(&text).unwrap_err();
        let place = format!("etc/node.toml, line {line}: ");
        assert!(
            error.starts_with(&place) && error.contains(word),
            "{bad}: {error}"
        );
    }
    let none = parse("").unwrap_err();
    assert!(none.contains("node"), "{none}");
}

#[test]
fn nvme_drives_and_rdma_are_taken_at_their_word() {
    let text = GOOD.replace("path = \"drive\"", "pci = \"3b:00.0\"");
    let text = text.replace("4420\"", "4420\"\ntransport = \"rdma\"");
    let config = parse(&text).unwrap();
    assert!(config.hugepages);
    let by_rdma = GOOD.replace("4420\"", "4420\"\ntransport = \"rdma\"");
    assert!(parse(&by_rdma).unwrap().hugepages);
    assert!(!parse(GOOD).unwrap().hugepages);
    let address = "0000:3b:00.0".parse().unwrap();
    assert_eq!(config.devices, [Device::Pci(address)]);
    assert_eq!(config.listeners[0].to_string(), "rdma://127.0.0.1:4420");
    assert_eq!(parse(&config.text()), Ok(config));
}

/// As with an SPDK that has DH-HMAC-CHAP, or has not, and files that hold secrets unless they are called "bad".
fn parse_with(text: &str, has_dh_chap: bool) -> Result<Config, String> {
    let check_secret = |path: &Path| match path.ends_with("bad") {
        true => Err("holds no secret".into()),
        false => Ok(()),
    };
    let around = Around {
        directory: Path::new("etc"),
        release: "31.13",
        has_dh_chap,
        check_secret: &check_secret,
    };
    let parsed = Config::parse_with(Path::new("etc/node.toml"), text, &around);
    parsed.map_err(|error| error.to_string())
}

#[test]
fn hosts_have_keys_where_spdk_takes_them() {
    let name = "nqn.2016-06.io.oriel:gpu7";
    let with = |host: &str| GOOD.replace(&format!("[\"{name}\"]"), &format!("[\n{host}\n]"));
    let keyed = format!("{{ nqn = \"{name}\", key = \"keys/7\", controller_key = \"/k\" }}");
    let config = parse_with(&with(&keyed), true).unwrap();
    let keys = crate::HostKeys {
        host: "etc/keys/7".into(),
        controller: Some("/k".into()),
    };
    let nqn = name.parse().unwrap();
    let host = crate::Host {
        nqn,
        keys: Some(keys),
    };
    assert_eq!(config.realms[1].hosts, crate::Hosts::Only(vec![host]));
    // What is printed is read from where orield stands, as all paths of it are.
    let again = config.text().replace("\"etc/", "\"");
    assert_eq!(parse_with(&again, true), Ok(config));

    let refused = parse_with(&with(&keyed), false).unwrap_err();
    for word in ["etc/node.toml, line 19: ", "v31.13", "v24.05 or newer"] {
        assert!(refused.contains(word), "{refused}");
    }
    let plain = with(&format!("{{ nqn = \"{name}\" }}"));
    assert!(parse_with(&plain, false).is_ok());
    for (host, word) in [
        (keyed.replace("keys/7", "bad"), "the key etc/bad holds no"),
        (keyed.replace("/k", "/bad"), "the key /bad holds no secret"),
        (keyed.replace(" key =", " keys ="), "keys"),
        (keyed.replace("nqn =", "name ="), "name"),
        (
            keyed.replace("key = \"keys/7\", ", ""),
            "for hosts that have a key",
        ),
    ] {
        let refused = parse_with(&with(&host), true).unwrap_err();
        let is_there = refused.starts_with("etc/node.toml, line 19: ");
        assert!(is_there && refused.contains(word), "{host}: {refused}");
    }
}
