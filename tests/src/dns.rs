//! A DNS server with a table of names, built on hickory-server, on UDP and TCP of one loopback port.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::Notify;

#[derive(Default)]
struct Table {
    records: HashMap<Name, Vec<RData>>,
    /// Names for which the server fails (RFC 1035 4.1.1, RCODE 2).
    failing: Vec<Name>,
    asked: BTreeMap<(String, String), usize>,
    /// No question is answered while this is true.
    held: bool,
}

/// The server; stops when dropped. A name that is not in the table does not exist (NXDOMAIN).
pub struct Dns {
    address: SocketAddr,
    table: Arc<Mutex<Table>>,
    released: Arc<Notify>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Dns {
    /// Starts with an empty table.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let table = Arc::new(Mutex::new(Table::default()));
        let (udp, tcp) = runtime.block_on(sockets());
        let address = udp.local_addr().unwrap();
        let released = Arc::new(Notify::new());
        let handler = Handler { table: Arc::clone(&table), released: Arc::clone(&released) };
        runtime.spawn(async move {
            let mut server = Server::new(handler);
            server.register_socket(udp);
            server.register_listener(tcp, Duration::from_secs(5), 16);
            server.block_until_done().await.unwrap();
        });
        Self { address, table, released, runtime: Some(runtime) }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    fn add(&self, name: &str, data: RData) {
        self.table.lock().unwrap().records.entry(fqdn(name)).or_default().push(data);
    }

    /// `name` has a mail exchanger.
    pub fn mx(&self, name: &str, preference: u16, exchange: &str) -> &Self {
        self.add(name, RData::MX(MX::new(preference, fqdn(exchange))));
        self
    }

    /// `name` has an address.
    pub fn address_of(&self, name: &str, address: &str) -> &Self {
        let data = match address.parse().unwrap() {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        self.add(name, data);
        self
    }

    /// `name` is another name.
    pub fn alias(&self, name: &str, target: &str) -> &Self {
        self.add(name, RData::CNAME(CNAME(fqdn(target))));
        self
    }

    /// `name` has a text.
    pub fn txt(&self, name: &str, text: &str) -> &Self {
        self.add(name, RData::TXT(TXT::new(vec![text.to_owned()])));
        self
    }

    /// The address has a name, of any bytes.
    pub fn name_of(&self, address: &str, name: &str) -> &Self {
        let address: IpAddr = address.parse().unwrap();
        let name = Name::from_labels(name.split('.').map(str::as_bytes)).unwrap();
        self.add(&Name::from(address).to_string(), RData::PTR(PTR(name)));
        self
    }

    /// From now on questions are counted and wait for their answers, until [`Dns::release`].
    pub fn hold(&self) -> &Self {
        self.table.lock().unwrap().held = true;
        self
    }

    /// All questions are answered, also those that waited.
    pub fn release(&self) -> &Self {
        self.table.lock().unwrap().held = false;
        self.released.notify_waiters();
        self
    }

    /// Questions about `name` are answered with SERVFAIL.
    pub fn fail(&self, name: &str) -> &Self {
        self.table.lock().unwrap().failing.push(fqdn(name));
        self
    }

    /// Forgets everything about `name`.
    pub fn forget(&self, name: &str) -> &Self {
        let mut table = self.table.lock().unwrap();
        table.records.remove(&fqdn(name));
        table.failing.retain(|failing| *failing != fqdn(name));
        self
    }

    /// How often `name` was asked for records of `kind` (`"MX"`, `"A"` …).
    pub fn asked(&self, name: &str, kind: &str) -> usize {
        let key = (fqdn(name).to_string(), kind.to_owned());
        self.table.lock().unwrap().asked.get(&key).copied().unwrap_or_default()
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A port of both protocols.
pub(crate) async fn sockets() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
}

fn fqdn(name: &str) -> Name {
    let mut name = Name::from_ascii(name).unwrap().to_lowercase();
    name.set_fqdn(true);
    name
}

struct Handler {
    table: Arc<Mutex<Table>>,
    released: Arc<Notify>,
}

impl Handler {
    /// Counts a question; comes back when it may be answered.
    async fn count(&self, name: &Name, kind: RecordType) {
        *self.table.lock().unwrap().asked.entry((name.to_string(), kind.to_string())).or_default() += 1;
        loop {
            // Before the look: a release between the two is not missed.
            let released = self.released.notified();
            if !self.table.lock().unwrap().held {
                return;
            }
            released.await;
        }
    }

    /// The answer section, CNAMEs followed (RFC 1034 3.6.2).
    fn answer(&self, name: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let table = self.table.lock().unwrap();
        let mut name = name.clone();
        let mut answers = Vec::new();
        for _ in 0..8 {
            if table.failing.contains(&name) {
                return (ResponseCode::ServFail, Vec::new());
            }
            let Some(data) = table.records.get(&name) else { return (ResponseCode::NXDomain, answers) };
            let alias = data.iter().find_map(|data| match data {
                RData::CNAME(target) => Some(target.0.clone()),
                _ => None,
            });
            let fits = |data: &&RData| alias.is_some() || data.record_type() == kind;
            answers.extend(
                data.iter().filter(fits).map(|data| Record::from_rdata(name.clone(), 0, data.clone())),
            );
            match alias {
                Some(target) => name = target,
                None => break,
            }
        }
        (ResponseCode::NoError, answers)
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let info = request.request_info().unwrap();
        let name = Name::from(info.query.name()).to_lowercase();
        self.count(&name, info.query.query_type()).await;
        let (code, answers) = self.answer(&name, info.query.query_type());
        let mut metadata = Metadata::response_from_request(info.metadata);
        metadata.response_code = code;
        metadata.authoritative = true;
        metadata.recursion_available = true;
        let response =
            MessageResponseBuilder::from_message_request(request).build(metadata, &answers, [], [], []);
        reply.send_response(response).await.unwrap()
    }
}
