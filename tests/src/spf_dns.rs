//! A DNS server that answers with a function: the zones of the SPF suite, names without end, failures.
//!
//! Nothing it says may be kept: every answer has a time to live of 0 and no SOA.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, MX, PTR, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;
use mailtree_protocols::spf::{Answer, Question};

use crate::dns::sockets;

/// What is answered to whom; `None`: nothing at all.
type Zone = dyn Fn(&Question) -> Option<Answer> + Send + Sync;

struct Shared {
    zone: Mutex<Arc<Zone>>,
    asked: Mutex<Vec<Question>>,
}

/// The server; stops when dropped.
pub struct SpfDns {
    address: SocketAddr,
    shared: Arc<Shared>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl SpfDns {
    /// Starts with `zone`; see [`SpfDns::serve`].
    pub fn start(zone: impl Fn(&Question) -> Option<Answer> + Send + Sync + 'static) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let shared = Arc::new(Shared { zone: Mutex::new(Arc::new(zone)), asked: Mutex::default() });
        let (udp, tcp) = runtime.block_on(sockets());
        let address = udp.local_addr().unwrap();
        let handler = Handler(Arc::clone(&shared));
        runtime.spawn(async move {
            let mut server = Server::new(handler);
            server.register_socket(udp);
            server.register_listener(tcp, Duration::from_secs(5), 16);
            server.block_until_done().await.unwrap();
        });
        Self { address, shared, runtime: Some(runtime) }
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers with `zone` from now on. [`Answer::Failed`] is SERVFAIL, `None` is silence.
    pub fn serve(&self, zone: impl Fn(&Question) -> Option<Answer> + Send + Sync + 'static) {
        *self.shared.zone.lock().unwrap() = Arc::new(zone);
    }

    /// The questions so far, repeated ones included; forgets them.
    pub fn asked(&self) -> Vec<Question> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }
}

impl Drop for SpfDns {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A question as the zones know it; `None`: of a type that they have no records of.
fn question(name: &Name, kind: RecordType) -> Option<Question> {
    let labels: Vec<_> = name.iter().map(String::from_utf8_lossy).collect();
    let text = labels.join(".").to_ascii_lowercase();
    Some(match kind {
        RecordType::TXT => Question::Txt(text),
        RecordType::A => Question::Addresses4(text),
        RecordType::AAAA => Question::Addresses6(text),
        RecordType::MX => Question::Mx(text),
        RecordType::PTR => Question::Ptr(name.parse_arpa_name().ok()?.addr()),
        _ => return None,
    })
}

/// A name of which a zone says that it exists; `None`: longer than DNS carries.
fn target(name: &str) -> Option<Name> {
    let mut name =
        Name::from_labels(name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn strings(text: &[u8]) -> Vec<&[u8]> {
    if text.is_empty() { vec![text] } else { text.chunks(255).collect() }
}

fn records(answer: Answer) -> (ResponseCode, Vec<RData>) {
    let data = match answer {
        Answer::Txt(texts) => {
            // A record has one string at least, each of at most 255 bytes (RFC 1035 3.3).
            texts.iter().map(|text| RData::TXT(TXT::from_bytes(strings(text)))).collect()
        }
        Answer::Addresses(addresses) => addresses
            .into_iter()
            .map(|address| match address {
                std::net::IpAddr::V4(address) => RData::A(A(address)),
                std::net::IpAddr::V6(address) => RData::AAAA(AAAA(address)),
            })
            .collect(),
        Answer::Mx(hosts) => {
            let mx = |(preference, host): (u16, String)| Some(RData::MX(MX::new(preference, target(&host)?)));
            hosts.into_iter().filter_map(mx).collect()
        }
        Answer::Ptr(names) => {
            names.iter().filter_map(|name| target(name)).map(|name| RData::PTR(PTR(name))).collect()
        }
        Answer::NoName => return (ResponseCode::NXDomain, Vec::new()),
        Answer::Failed => return (ResponseCode::ServFail, Vec::new()),
    };
    (ResponseCode::NoError, data)
}

struct Handler(Arc<Shared>);

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let info = request.request_info().unwrap();
        let name = Name::from(info.query.name());
        let (code, data) = match question(&name, info.query.query_type()) {
            Some(question) => {
                self.0.asked.lock().unwrap().push(question.clone());
                let zone = Arc::clone(&self.0.zone.lock().unwrap());
                match zone(&question) {
                    Some(answer) => records(answer),
                    None => pending().await,
                }
            }
            None => (ResponseCode::NoError, Vec::new()),
        };
        let answers: Vec<_> =
            data.into_iter().map(|data| Record::from_rdata(name.clone(), 0, data)).collect();
        let mut metadata = Metadata::response_from_request(info.metadata);
        metadata.response_code = code;
        metadata.authoritative = true;
        metadata.recursion_available = true;
        let response =
            MessageResponseBuilder::from_message_request(request).build(metadata, &answers, [], [], []);
        reply.send_response(response).await.unwrap()
    }
}
