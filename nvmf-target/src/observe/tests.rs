//! What clients may do without harm, while no node is there yet.

use super::*;
use oriel_engine::store::StoreId;

fn endpoint(bounds: Bounds) -> Endpoint {
    let identity = Identity {
        node: "n1".into(),
        store: StoreId([7; 16]),
        started: Instant::now(),
        record: Arc::default(),
    };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Endpoint::start_with(address, identity, bounds).unwrap()
}

/// Time enough for any machine.
const PATIENT: Bounds = Bounds {
    connections: 3,
    time: Duration::from_secs(3600),
};

fn connect(endpoint: &Endpoint) -> TcpStream {
    TcpStream::connect(endpoint.address()).unwrap()
}

/// What comes until the other side ends, by closing or by resetting the connection.
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes).unwrap()
}

fn get(endpoint: &Endpoint, request: &str) -> String {
    let mut stream = connect(endpoint);
    // Where the other side has had enough of it, what it said counts.
    let _ = stream.write_all(request.as_bytes());
    let _ = stream.shutdown(Shutdown::Write);
    rest(&stream)
}

#[test]
fn requests_are_answered_before_the_node_serves() {
    // A connection that has been answered keeps its place for a moment: there is one for each request.
    let endpoint = endpoint(Bounds {
        connections: 8,
        ..PATIENT
    });
    let early = get(&endpoint, "GET /metrics HTTP/1.1\r\n\r\n");
    assert!(early.starts_with("HTTP/1.1 503 "), "{early}");
    assert!(early.contains("does not serve yet"), "{early}");
    let wrong = get(&endpoint, "BREW /coffee HTTP/1.1\r\n\r\n");
    assert!(wrong.starts_with("HTTP/1.1 405 "), "{wrong}");
    let large = get(&endpoint, &"GET /metrics".repeat(1000));
    assert!(
        large.is_empty() || large.starts_with("HTTP/1.1 431 "),
        "{large}"
    );
    assert_eq!(get(&endpoint, "GET /metrics HTTP/1.1\r\nHost"), "");
}

#[test]
fn a_client_that_is_slow_loses_its_connection() {
    let endpoint = endpoint(Bounds {
        time: Duration::from_millis(20),
        ..PATIENT
    });
    let mut stream = connect(&endpoint);
    stream.write_all(b"GET /metrics HT").unwrap();
    assert_eq!(rest(&stream), "");
}

#[test]
fn more_connections_than_there_may_be_are_told_so() {
    let endpoint = endpoint(PATIENT);
    let held: Vec<TcpStream> = (0..PATIENT.connections)
        .map(|_| connect(&endpoint))
        .collect();
    let refused = rest(&connect(&endpoint));
    assert!(
        refused.starts_with("HTTP/1.1 503 ") && refused.contains("too many"),
        "{refused}"
    );
    drop(held);
    // As soon as those are seen to have gone there is room again.
    loop {
        let answer = get(&endpoint, "GET /status HTTP/1.1\r\n\r\n");
        if answer.contains("does not serve yet") {
            break;
        }
        assert!(answer.is_empty() || answer.contains("too many"), "{answer}");
    }
}
