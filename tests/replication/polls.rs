//! Parked polls on the real server: many of them hold nobody up, and a commit answers all.
//!
//! The full size, with numbers: `scripts/parked-polls`.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use twinpi::http::request::{Headers, Method, Request};
use twinpi::http::response::{Reply, Response};
use twinpi::http::{Handler, Server, ServerOptions};
use twinpi::replication::{Master, wire};
use twinpi::serial::Serial;

use super::rig::{self, Home, MASTER, ReplicaNode, eventually};

struct Routes<F>(F);

impl<F: Fn(Request) -> Reply + Send + Sync + 'static> Handler for Routes<F> {
    fn handle(&self, request: Request) -> Reply {
        (self.0)(request)
    }
}

/// A master behind the real server, with a page for those who do not poll.
struct Real {
    home: Home,
    master: Master,
    server: Server,
    address: SocketAddr,
}

fn start() -> Real {
    let home = Home::new();
    home.commit("ann");
    let (master, handler) = rig::serve_master(&home, MASTER);
    let routes = move |request: Request| match request.path() {
        "/page" => Reply::Now(Response::bytes(200, "text/html", vec![b'x'; 2000])),
        _ => handler(request),
    };
    let listen = vec!["127.0.0.1:0".parse().expect("an address")];
    let options = ServerOptions { listen, ..ServerOptions::default() };
    let server = Server::start(options, Arc::new(Routes(routes)), home.store.clock().clone());
    let server = server.expect("starts");
    let address = server.addresses()[0];
    Real { home, master, server, address }
}

/// Opens so many polls for the next serial, each as a replica of its own, and waits until all are parked.
fn park(real: &Real, count: usize) -> Vec<TcpStream> {
    let target = format!("{}{}-", wire::CHANGELOG, Serial::following(real.home.now()));
    let nonce = {
        let ours = [(wire::TWINPI_VERSION, "1"), (wire::REPLICA_UUID, rig::REPLICA)];
        let asked = rig::request(Method::Get, &target, &ours, b"");
        let refusal = real.master.replica_of(&asked).expect_err("no proof yet");
        refusal.header(wire::NONCE).expect("a nonce").to_owned()
    };
    let mut polls = Vec::new();
    for n in 0..count {
        let uuid = format!("{n:032x}");
        let signer = rig::signer(&uuid);
        signer.learn(&Headers(vec![(wire::NONCE.into(), nonce.clone())]));
        let (name, value) = rig::proof(&signer, &target);
        let mut stream = TcpStream::connect(real.address).expect("connects");
        let head = format!(
            "GET {target} HTTP/1.1\r\nHost: master\r\nAccept: {}\r\n{}: {uuid}\r\n{}: \r\n{}: 1\r\n{name}: {value}\r\n\r\n",
            wire::ACCEPT_STREAM,
            wire::REPLICA_UUID,
            wire::EXPECTED_MASTER,
            wire::TWINPI_VERSION,
        );
        stream.write_all(head.as_bytes()).expect("sent");
        stream.set_nonblocking(true).expect("a socket");
        polls.push(stream);
    }
    eventually(|| (real.server.stats().parked == count).then_some(()), "all polls parked");
    polls
}

/// Waits for the answers; gives for each how long it took.
fn answers(polls: &mut [TcpStream], since: Instant) -> Vec<Duration> {
    let mut took: Vec<Option<Duration>> = vec![None; polls.len()];
    let mut heads = vec![0; 64 << 10];
    while took.iter().any(Option::is_none) && since.elapsed() < Duration::from_secs(10) {
        for (stream, took) in polls.iter_mut().zip(&mut took).filter(|(_, took)| took.is_none()) {
            match stream.read(&mut heads) {
                Ok(n) => {
                    let text = String::from_utf8_lossy(&heads[..n]);
                    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
                    *took = Some(since.elapsed());
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => {}
                Err(e) => panic!("a poll was cut: {e}"),
            }
        }
    }
    let mut took: Vec<_> = took.into_iter().map(|t| t.expect("all are answered")).collect();
    took.sort();
    took
}

/// How many pages per second so many clients get.
fn page_rate(address: SocketAddr, clients: usize, time: Duration) -> f64 {
    let (count, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let since = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).expect("connects");
                let mut buffer = vec![0; 8 << 10];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(b"GET /page HTTP/1.1\r\nHost: m\r\n\r\n").expect("sent");
                    let mut got = 0;
                    while got < 2000 || !buffer[..got].ends_with(b"x") {
                        got += stream.read(&mut buffer[got..]).expect("an answer");
                        assert!(0 < got);
                        let head = buffer[..got].windows(4).position(|w| w == b"\r\n\r\n");
                        if head.is_some_and(|at| got == at + 4 + 2000) {
                            break;
                        }
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
    });
    count.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64()
}

fn check(count: usize, time: Duration) -> (Vec<Duration>, f64, f64) {
    let real = start();
    page_rate(real.address, 4, time / 4); // warm
    let alone = page_rate(real.address, 4, time);
    let mut polls = park(&real, count);
    let beside = page_rate(real.address, 4, time);
    assert_eq!(real.server.stats().parked, count, "none was answered early");
    let since = Instant::now();
    real.home.commit("bob");
    let took = answers(&mut polls, since);
    println!(
        "{count} polls: half answered after {:?}, all after {:?}",
        took[count / 2],
        took[count - 1]
    );
    println!("pages per second: {alone:.0} alone, {beside:.0} beside {count} parked polls");
    real.server.stop();
    (took, alone, beside)
}

#[test]
fn parked_polls_hold_nobody_up_and_a_commit_answers_all() {
    let (took, alone, beside) = check(50, Duration::from_millis(400));
    assert!(took[49] < Duration::from_millis(200), "{:?}", took[49]);
    assert!(alone / 3.0 < beside, "{alone:.0} pages per second became {beside:.0}");
}

#[test]
#[ignore = "takes a quiet machine; scripts/parked-polls runs it"]
fn five_hundred_parked_polls() {
    let (took, alone, beside) = check(500, Duration::from_secs(3));
    assert!(took[499] < Duration::from_millis(100), "{:?}", took[499]);
    assert!(alone * 0.85 < beside, "{alone:.0} pages per second became {beside:.0}");
}

#[test]
fn a_replica_follows_through_the_real_server() {
    let real = start();
    let replica = ReplicaNode::start(&format!("http://{}", real.address));
    let path = real.home.upload("x-1.zip", b"bytes");
    assert_eq!(replica.has_file(&path), b"bytes");
    let mut delays = Vec::new();
    for _ in 0..20 {
        eventually(|| (real.server.stats().parked == 1).then_some(()), "the poll");
        let committed = real.home.commit("ann");
        let since = Instant::now();
        replica.reaches(committed);
        delays.push(since.elapsed());
    }
    delays.sort();
    println!("propagation through the server: median {:?}, worst {:?}", delays[10], delays[19]);
    assert!(delays[10] < Duration::from_millis(50), "{delays:?}");
    for n in 0..2000 {
        real.home.commit(&format!("user-{}", n % 50));
    }
    replica.reaches(real.home.now().expect("not empty"));
    assert_eq!(real.home.chain(), replica.home.chain());
    let since = Instant::now();
    real.server.stop();
    assert!(since.elapsed() < Duration::from_secs(5), "a parked poll does not hold up the stop");
}
