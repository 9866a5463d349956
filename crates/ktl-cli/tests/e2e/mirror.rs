//! A server of files, of http or https, that remembers what it was asked for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub struct Mirror {
    pub address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What a path leads to: a body, or, beginning with `->`, another place.
pub type Files = BTreeMap<String, Vec<u8>>;

impl Mirror {
    /// At an address that is loopback and that no program leaves its proxy out for.
    pub fn start(files: Files) -> Mirror {
        Mirror::at("127.0.0.2", files)
    }

    pub fn at(host: &str, files: Files) -> Mirror {
        Mirror::serving(host, files, None)
    }

    /// With the `cert.pem` and `key.pem` of a directory, at the address that they are for.
    pub fn secure(certificates: &Path, files: Files) -> Mirror {
        let certificate = CertificateDer::from_pem_file(certificates.join("cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(certificates.join("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
        Mirror::serving("127.0.0.1", files, Some(Arc::new(config)))
    }

    fn serving(host: &str, files: Files, tls: Option<Arc<ServerConfig>>) -> Mirror {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (files, log) = (Arc::new(files), asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, log, tls) = (files.clone(), log.clone(), tls.clone());
                std::thread::spawn(move || match tls {
                    Some(tls) => {
                        let tls = ServerConnection::new(tls).unwrap();
                        drop(answer(StreamOwned::new(tls, stream), &files, &log));
                    }
                    None => drop(answer(stream, &files, &log)),
                });
            }
        });
        Mirror { address, asked }
    }

    pub fn was_asked(&self, path: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|asked| asked == path)
    }
}

fn answer(stream: impl Read + Write, files: &Files, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut request = String::new();
        if stream.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::from("-");
        while !header.trim().is_empty() {
            header.clear();
            stream.read_line(&mut header)?;
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        log.lock().unwrap().push(path.clone());
        let (status, extra, body) = match files.get(&path) {
            Some(to) if to.starts_with(b"->") => {
                ("302 Found", format!("Location: {}\r\n", String::from_utf8_lossy(&to[2..])), &[][..])
            }
            Some(body) => ("200 OK", String::new(), body.as_slice()),
            None => ("404 Not Found", String::new(), &[][..]),
        };
        let head = format!("HTTP/1.1 {status}\r\n{extra}Content-Length: {}\r\n\r\n", body.len());
        let writer = stream.get_mut();
        writer.write_all(head.as_bytes())?;
        writer.write_all(body)?;
        writer.flush()?;
    }
}

pub fn files(pairs: &[(&str, &str)]) -> Files {
    pairs.iter().map(|(path, body)| (path.to_string(), body.as_bytes().to_vec())).collect()
}
