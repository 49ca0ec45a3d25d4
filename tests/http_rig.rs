//! The HTTP server against clients that mean no good, and those that do: sockets and bytes, no client library.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "http_rig/bodies.rs"]
mod bodies;
#[path = "http_rig/rig.rs"]
mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rig::{Client, Rig, options};
use twinpi::serial::Serial;

const SOON: Duration = Duration::from_secs(5);

// ---- answers

#[test]
fn keep_alive_serves_one_request_after_another() {
    let rig = Rig::start();
    let mut client = rig.client();
    for _ in 0..100 {
        assert_eq!(client.get("/hello").text(), "hello");
    }
    let page = client.get("/page");
    assert_eq!((page.status, page.body.len()), (200, 10_000));
}

#[test]
fn head_has_the_length_and_no_body() {
    let rig = Rig::start();
    let mut client = rig.client();
    for path in ["/page", "/file", "/hello"] {
        client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let head = client.read_head();
        let length = client.get(path).body.len(); // the connection is still in step
        assert!(head.contains(&format!("\r\nContent-Length: {length}\r\n")), "{path}: {head}");
    }
}

#[test]
fn files_and_streams_arrive_whole() {
    let rig = Rig::start();
    let mut client = rig.client();
    let file = client.get("/file");
    assert_eq!(file.body.len(), 3_000_000);
    assert!(file.body.iter().enumerate().all(|(n, b)| *b == (n % 251) as u8));
    let stream = client.get("/stream");
    assert!(stream.head.contains("Transfer-Encoding: chunked"), "{}", stream.head);
    assert_eq!(stream.body.len(), 1_000_000);
    assert_eq!(client.get("/hello").text(), "hello");
}

#[test]
fn a_stream_that_fails_is_seen_as_incomplete() {
    let rig = Rig::start();
    for path in ["/bad-stream", "/bad-sized-stream"] {
        let mut client = rig.client();
        client.send_get(path);
        let head = client.read_head();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        let rest = client.read_rest();
        assert!(!rest.is_empty() && !rest.ends_with(b"\r\n00000000\r\n\r\n"), "{}", rest.len());
        assert!(rest.len() < 200_000);
    }
}

#[test]
fn old_clients_are_answered_in_their_way() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("GET /stream HTTP/1.0\r\n\r\n");
    let head = client.read_head();
    assert!(head.contains("Connection: close") && !head.contains("chunked"), "{head}");
    assert_eq!(client.read_rest().len(), 1_000_000);
    let mut client = rig.client();
    for _ in 0..2 {
        client.send("GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let answer = client.read_answer();
        assert!(answer.head.contains("Connection: keep-alive"), "{}", answer.head);
    }
    let mut client = rig.client();
    client.send("GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
    assert!(client.read_answer().head.contains("Connection: close"));
    assert!(client.is_closed());
}

#[test]
fn a_reason_is_sent_and_close_closes() {
    let rig = Rig::start();
    let mut client = rig.client();
    let answer = client.get("/reason");
    assert!(answer.head.starts_with("HTTP/1.1 400 because  so\r\n"), "{}", answer.head);
    assert!(client.get("/close").head.contains("Connection: close"));
    assert!(client.is_closed());
}

#[test]
fn absolute_targets_lose_their_authority() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("GET http://else:99/target?q HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(client.read_answer().text(), "/target?q");
}

// ---- panics (row 15 of the measurements, and 11)

#[test]
fn a_panic_is_answered_and_costs_no_worker() {
    let rig = Rig::start();
    let mut client = rig.client();
    for _ in 0..20 {
        assert_eq!(client.get("/panic").status, 500);
        assert_eq!(client.get("/remote-panic").status, 500);
    }
    assert_eq!(client.get("/hello").text(), "hello");
    assert_eq!(rig.server.stats().panics, 40);
}

#[test]
fn clients_that_reset_at_once_do_no_harm() {
    let rig = Rig::start();
    for _ in 0..300 {
        let socket = socket2::Socket::from(rig.client().stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
    rig.wait("connections end", |s| s.connections <= 1);
    assert_eq!(rig.client().get("/hello").text(), "hello");
}

// ---- pipelining (row 5)

#[test]
fn requests_sent_ahead_hold_no_workers_and_are_answered_in_order() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send(&"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n".repeat(8));
    let asked = Instant::now();
    let mut other = rig.client();
    for _ in 0..10 {
        other.get("/hello");
    }
    assert!(asked.elapsed() < Duration::from_millis(500));
    for _ in 0..8 {
        assert_eq!(client.read_answer().text(), "slow");
    }
}

#[test]
fn answers_keep_the_order_of_requests_under_load() {
    let rig = Rig::start();
    thread::scope(|scope| {
        for thread in 0..8 {
            let mut client = rig.client();
            scope.spawn(move || {
                for round in 0..200 {
                    let ahead = 1 + (round * 7 + thread) % 12;
                    let request = |n| format!("GET /target?{n} HTTP/1.1\r\nHost: h\r\n\r\n");
                    client.send(&(0..ahead).map(request).collect::<String>());
                    for n in 0..ahead {
                        assert_eq!(client.read_answer().text(), format!("/target?{n}"));
                    }
                }
            });
        }
    });
}

#[test]
fn too_many_requests_ahead_end_the_connection() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send_get("/park?999");
    rig.wait("parked", |s| s.parked == 1);
    let many = "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n".repeat(2000);
    client.try_send(&many);
    assert!(client.is_closed_or_answered());
    rig.wait("nothing is left", |s| s.in_flight == 0);
    assert_eq!(rig.client().get("/hello").text(), "hello");
}

#[test]
fn a_request_behind_a_parked_one_ripens_it() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send_get("/park?999");
    rig.wait("parked", |s| s.parked == 1);
    client.send_get("/hello");
    assert_eq!(client.read_answer().text(), "resumed");
    assert_eq!(client.read_answer().text(), "hello");
    client.send(&"GET /park?999 HTTP/1.1\r\nHost: h\r\n\r\n".repeat(3));
    for _ in 0..2 {
        assert_eq!(client.read_answer().text(), "resumed");
    }
    rig.wait("the last one stays", |s| s.parked == 1);
}

// ---- parked requests

#[test]
fn five_hundred_polls_hold_no_worker_and_are_all_answered_on_a_commit() {
    let rig = Rig::start();
    let mut clients: Vec<Client> = (0..500).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.send_get("/park?0");
    }
    rig.wait("all are parked", |s| s.parked == 500);
    assert_eq!(rig.client().get("/hello").text(), "hello");
    let threads: usize = rig.server.stats().lanes.iter().map(|(_, _, threads)| threads).sum();
    assert!(threads <= 9, "{threads}");
    let committed = Instant::now();
    rig.clock.advance(Serial::FIRST);
    rig.wait("all are answered", |s| s.in_flight == 0);
    let took = committed.elapsed();
    assert!(
        took < Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 100 }),
        "{took:?}"
    );
    for client in &mut clients {
        assert_eq!(client.read_answer().text(), "resumed");
    }
}

#[test]
fn a_poll_ends_at_its_deadline_and_one_that_is_ripe_does_not_wait() {
    let rig = Rig::start();
    let mut client = rig.client();
    let asked = Instant::now();
    assert_eq!(client.get("/park?999&ms=200").text(), "resumed");
    assert!(asked.elapsed() >= Duration::from_millis(200));
    rig.clock.advance(Serial::new(5).unwrap());
    let asked = Instant::now();
    assert_eq!(client.get("/park?5").text(), "resumed");
    assert!(asked.elapsed() < Duration::from_millis(200));
}

#[test]
fn polls_of_clients_that_left_are_given_up() {
    let rig = Rig::start();
    let clients: Vec<Client> = (0..20).map(|_| rig.client()).collect();
    for mut client in clients {
        client.send_get("/park?999");
        rig.wait("parked", |s| s.parked > 0);
    }
    rig.wait("given up", |s| s.parked == 0 && s.in_flight == 0);
}

// ---- slow and many connections (rows 1, 2, 7, 8)

#[test]
fn connections_that_come_together_are_all_served() {
    let rig = Rig::start();
    for round in 0..3 {
        let mut clients: Vec<Client> = (0..60).map(|_| rig.client()).collect();
        let asked = Instant::now();
        for client in &mut clients {
            client.send_get("/hello");
        }
        for client in &mut clients {
            assert_eq!(client.read_answer().text(), "hello");
        }
        assert!(asked.elapsed() < Duration::from_secs(2), "{round}: {:?}", asked.elapsed());
    }
}

#[test]
fn heads_that_drip_or_stop_are_ended() {
    let rig = Rig::start();
    let mut silent = rig.client();
    let mut half = rig.client();
    half.send("GET /hello HT");
    let mut drip = rig.client();
    drip.send("GET /hello HTTP/1.1\r\nX: ");
    let started = Instant::now();
    while drip.try_send("x") && started.elapsed() < SOON {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(started.elapsed() < SOON);
    assert!(half.is_closed());
    assert!(silent.is_closed());
    assert!(rig.server.stats().cut >= 3);
}

#[test]
fn a_head_without_end_is_ended() {
    let rig = Rig::start();
    let mut client = rig.client();
    client.send("GET /hello HTTP/1.1\r\nX: ");
    let junk = "x".repeat(100_000);
    let sent = (0..2000).take_while(|_| client.try_send(&junk)).count();
    assert!(sent < 2000, "200 MB were taken");
    let mut client = rig.client();
    client.send(&format!("GET /hello HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(70_000)));
    assert_eq!(client.read_answer().status, 431);
}

#[test]
fn idle_connections_end_after_their_time_and_busy_ones_do_not() {
    let rig = Rig::start();
    let mut idle = rig.client();
    idle.get("/hello");
    let mut busy = rig.client();
    busy.send_get("/remote?2500");
    assert!(idle.is_closed());
    assert_eq!(busy.read_answer().text(), "remote");
}

#[test]
fn above_the_limit_idle_connections_go_first() {
    let mut options = options();
    options.connections_max = 20;
    options.idle_timeout = Duration::from_secs(60);
    let rig = Rig::start_with(options);
    let mut parked = rig.client();
    parked.send_get("/park?999");
    let mut clients = Vec::new();
    for _ in 0..40 {
        clients.push(rig.client());
        assert_eq!(clients.last_mut().unwrap().get("/hello").text(), "hello");
    }
    rig.wait("the cap holds", |s| (1..=20).contains(&s.connections));
    assert_eq!(rig.server.stats().parked, 1);
    assert_eq!(rig.client().get("/hello").text(), "hello");
}

#[test]
fn a_client_that_takes_no_answer_is_ended() {
    let rig = Rig::start();
    let mut stuck: Vec<Client> = (0..10).map(|_| rig.client()).collect();
    for client in &mut stuck {
        client.send_get("/endless");
    }
    rig.wait("all write", |s| s.in_flight == 10);
    assert_eq!(rig.client().get("/hello").text(), "hello");
    rig.wait("all are ended", |s| s.in_flight == 0);
    // Small answers, one after another, that nobody reads.
    let mut greedy = rig.client();
    greedy.stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    while greedy.try_send("GET /page HTTP/1.1\r\nHost: h\r\n\r\n") {
        thread::sleep(Duration::from_micros(200));
    }
    rig.wait("it is ended too", |s| s.in_flight == 0);
}

#[test]
fn running_out_of_descriptors_does_not_end_the_server() {
    let own = std::env::current_exe().unwrap();
    let script = "ulimit -n 64 && exec \"$0\" --exact --ignored with_few_descriptors";
    let child = Command::new("sh").args(["-c", script]).arg(own).output().unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
#[ignore = "the test above runs it in a process of its own"]
fn with_few_descriptors() {
    let mut options = options();
    options.idle_timeout = Duration::from_secs(60);
    let rig = Rig::start_with(options);
    let first = rig.client().get("/hello");
    assert_eq!(first.text(), "hello");
    let mut held = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        held.push(file);
    }
    assert!(held.len() > 5);
    // Room for the clients' ends only: accepting fails, or what tiny_http does next.
    held.truncate(held.len() - 8);
    let clients: Vec<_> = (0..8).map(|_| TcpStream::connect(rig.address())).collect();
    thread::sleep(Duration::from_millis(300));
    drop((clients, held));
    assert_eq!(rig.client().get("/hello").text(), "hello");
    assert!(rig.server.stats().rebuilds > 0, "the limit was never met");
}

// ---- lanes

#[test]
fn waiting_for_another_machine_stops_no_local_work() {
    let mut options = options();
    (options.workers_remote, options.remote_queue_max) = (2, 2);
    let rig = Rig::start_with(options);
    let mut clients: Vec<Client> = (0..6).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.send_get("/remote?500");
        thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(rig.client().get("/hello").text(), "hello");
    let statuses: Vec<u16> = clients.iter_mut().map(|c| c.read_answer().status).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 503, 503]);
    clients[5].send_get("/remote?0");
    assert_eq!(clients[5].read_answer().text(), "remote");
}

#[test]
fn a_full_queue_answers_503_with_retry_after() {
    let mut options = options();
    (options.workers_local, options.queue_max) = (1, 1);
    let rig = Rig::start_with(options);
    let mut clients: Vec<Client> = (0..3).map(|_| rig.client()).collect();
    for client in &mut clients {
        client.send_get("/slow");
        thread::sleep(Duration::from_millis(10));
    }
    let last = clients[2].read_answer();
    assert_eq!(last.status, 503);
    assert!(last.head.contains("Retry-After: "), "{}", last.head);
    assert_eq!(clients[1].read_answer().text(), "slow");
    assert_eq!(rig.server.stats().busy, 1);
}

// ---- unix socket (row 18)

#[test]
fn a_unix_socket_serves_bursts_too() {
    let folder = tempfile::tempdir().unwrap();
    let mut options = options();
    options.unix_socket = Some(folder.path().join("http.sock"));
    let rig = Rig::start_with(options);
    let path = folder.path().join("http.sock");
    let mut streams: Vec<_> =
        (0..30).map(|_| std::os::unix::net::UnixStream::connect(&path).unwrap()).collect();
    for _ in 0..2 {
        for stream in &mut streams {
            stream.write_all(b"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        }
        for stream in &mut streams {
            stream.set_read_timeout(Some(SOON)).unwrap();
            let mut answer = vec![0; 1000];
            let n = stream.read(&mut answer).unwrap();
            assert!(answer[..n].ends_with(b"\r\n\r\nhello"));
        }
    }
    let stream = &mut streams[0];
    stream.write_all(b"POST /ignore HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n").unwrap();
    let mut answer = vec![0; 1000];
    let n = stream.read(&mut answer).unwrap();
    assert!(answer[..n].starts_with(b"HTTP/1.1 400"));
    rig.server.stop();
    assert!(!path.exists());
}

// ---- stop (row 16)

#[test]
fn stop_answers_what_is_under_way_and_ends_the_rest() {
    let rig = Rig::start();
    let mut idle = rig.client();
    idle.get("/hello");
    let mut parked = rig.client();
    parked.send_get("/park?999");
    let mut slow = rig.client();
    slow.send_get("/slow");
    let mut remote = rig.client();
    remote.send_get("/remote?300");
    rig.wait("all are under way", |s| s.in_flight == 3 && s.parked == 1);
    let address = rig.address();
    let started = Instant::now();
    let server = rig.server.clone();
    let stopping = thread::spawn(move || server.stop());
    assert_eq!(parked.read_answer().text(), "resumed");
    assert_eq!(slow.read_answer().text(), "slow");
    let last = remote.read_answer();
    assert!(last.head.contains("Connection: close"), "{}", last.head);
    stopping.join().unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(idle.is_closed());
    assert!(TcpStream::connect(address).is_err());
    rig.server.stop();
}

#[test]
fn stop_does_not_wait_for_ever() {
    let mut options = options();
    options.drain_time_max = Duration::from_millis(200);
    let rig = Rig::start_with(options);
    let mut client = rig.client();
    client.send_get("/remote?60000");
    rig.wait("under way", |s| s.in_flight == 1);
    let started = Instant::now();
    rig.server.stop();
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(client.is_closed());
}
