//! How requests are framed, and what becomes of their bodies.

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use crate::SOON;
use crate::rig::{Client, Rig};

// ---- framing (rows 9, 14)

#[test]
fn what_two_servers_could_read_differently_is_refused() {
    let rig = Rig::start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    for fields in [
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: abc\r\n",
        "Content-Length: 5\r\nContent-Length: 50\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "X: a\nContent-Length: 5\r\n",
        "Host: twice\r\n",
    ] {
        let mut client = rig.client();
        client.send(&format!("POST /ignore HTTP/1.1\r\nHost: h\r\n{fields}\r\n{smuggled}"));
        let answer = client.read_answer();
        assert_eq!(answer.status, 400, "{fields}");
        assert!(answer.head.contains("Connection: close"), "{}", answer.head);
        assert!(client.is_closed(), "{fields}");
    }
    let mut client = rig.client();
    client.send("GET /hello HTTP/1.1\r\n\r\n");
    assert_eq!(client.read_answer().status, 400);
    assert!(client.is_closed());
    assert_eq!(rig.smuggled(), 0);
}

#[test]
fn an_unread_body_is_never_taken_for_a_request() {
    let rig = Rig::start();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    // Short ones are drained, and the connection goes on behind them.
    let mut client = rig.client();
    let chunk = format!("{:x}\r\n{smuggled}\r\n0\r\n\r\n", smuggled.len());
    let chunked = "POST /ignore HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(&format!("{chunked}{chunk}GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"));
    assert_eq!(client.read_answer().status, 404);
    assert_eq!(client.read_answer().text(), "hello");
    // Broken ones end the connection.
    for broken in [format!("zz\r\n{smuggled}"), format!("-1\r\n{smuggled}")] {
        let mut client = rig.client();
        client.send(&format!("{chunked}{broken}"));
        assert_eq!(client.read_answer().status, 404);
        assert!(client.is_closed());
    }
    assert_eq!(rig.smuggled(), 0);
}

#[test]
fn a_chunked_body_that_ends_early_is_an_error_to_its_handler() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read_answer().status, 400);
    let mut client = rig.client();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    client.send("3\r\ncde\r\n0\r\n\r\n");
    assert_eq!(client.read_answer().text(), "5");
}

// ---- bodies (rows 3, 4, 12)

#[test]
fn bodies_over_the_limit_are_refused_without_reading_them() {
    let rig = Rig::start();
    for length in ["2000001", "100000000000", "18446744073709551615", "99999999999999999999999"] {
        let mut client = rig.client();
        client.send(&format!(
            "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\nabc"
        ));
        let answer = client.read_answer();
        assert_eq!(answer.status, 413, "{length}");
        assert!(client.is_closed());
    }
    let mut client = rig.client();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = format!("{:x}\r\n{}\r\n", 100_000, "x".repeat(100_000));
    let sending = thread::spawn(move || {
        let sent = (0..100).take_while(|_| client.try_send(&chunk)).count();
        (client, sent)
    });
    let (mut client, _) = sending.join().unwrap();
    assert_eq!(client.read_answer().status, 413);
    assert_eq!(rig.client().get("/hello").text(), "hello");
}

#[test]
fn an_absurd_length_whose_client_leaves_does_not_end_the_process() {
    let rig = Rig::start();
    for _ in 0..5 {
        let mut client = rig.client();
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000000000\r\n\r\n");
    }
    rig.wait("the leak is counted", |s| s.leaked == 5);
    assert_eq!(rig.client().get("/hello").text(), "hello");
}

#[test]
fn an_early_answer_reaches_a_client_that_still_sends() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("POST /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: 2000000\r\n\r\n");
    let piece = "x".repeat(100_000);
    for _ in 0..20 {
        client.send(&piece);
    }
    let answer = client.read_answer();
    assert_eq!(answer.status, 404);
    assert!(client.is_closed());
}

#[test]
fn expect_continue_is_answered_by_need() {
    let rig = Rig::start();
    let mut client = rig.client();
    let head = "HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.send(&format!("POST /echo {head}"));
    assert!(client.read_head().starts_with("HTTP/1.1 100"));
    client.send("hello");
    assert_eq!(client.read_answer().text(), "5");
    client.send(&format!("POST /ignore {head}"));
    assert_eq!(client.read_answer().status, 404);
}

#[test]
fn uploads_without_bytes_starve_nobody_and_are_ended() {
    let rig = Rig::start();
    let mut stuck: Vec<Client> = (0..32).map(|_| rig.client()).collect();
    for client in &mut stuck {
        client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n");
    }
    rig.wait("all are under way", |s| s.in_flight == 32);
    let asked = Instant::now();
    assert_eq!(rig.client().get("/hello").text(), "hello");
    assert!(asked.elapsed() < Duration::from_millis(500));
    rig.wait("they are ended", |s| s.in_flight == 0);
    assert!(stuck.iter_mut().all(Client::is_closed_or_answered));
}

#[test]
fn a_body_that_drips_is_ended_too() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 2000\r\n\r\n");
    let started = Instant::now();
    while client.try_send("x") && started.elapsed() < SOON {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() < SOON);
    rig.wait("its worker is free", |s| s.in_flight == 0);
}
