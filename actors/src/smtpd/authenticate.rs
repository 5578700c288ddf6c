//! Who the client is: vpopmail's users, or a checkpassword program.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use mailtree_protocols::auth::Credentials;
use mailtree_protocols::auth::checkpassword::{Answer, input as checkpassword_input};
use mailtree_protocols::reply::Refusal;

use super::Talk;
use crate::clock::unix_now;
use crate::program::{Program, checkpassword};
use crate::users::{Asker, Verdict};

impl Talk {
    /// Checks what the client has shown.
    pub(super) async fn authenticate(&mut self) -> Result<(), Refusal> {
        let Some(credentials) = self.session.credentials().cloned() else {
            return Err(Refusal::auth_temporary());
        };
        let asker = Asker { ip: self.client.ip(), port: self.connection.local.port() };
        let verdict = match &self.smtpd.checkpassword {
            None => self.smtpd.users.vchkpw(&credentials, asker, &self.controls.me).await,
            Some(program) => self.checkpassword(program, &credentials, asker).await,
        };
        match verdict {
            Verdict::Accepted { relays } => {
                self.auth_plugins().await?;
                self.user_relays = relays;
                Ok(())
            }
            Verdict::Refused => Err(Refusal::auth_failed()),
            Verdict::TooMany => Err(Refusal::auth_too_many_failures()),
            Verdict::Temporary => Err(Refusal::auth_temporary()),
        }
    }

    async fn checkpassword(&self, program: &Program, credentials: &Credentials, asker: Asker) -> Verdict {
        let account = credentials.user.to_ascii_lowercase();
        let Some(_under_way) = self.smtpd.users.wait(&account, asker.ip).await else {
            return Verdict::TooMany;
        };
        let (permits, deadline) = &self.smtpd.programs;
        let Some(_permit) = permits.try_acquire() else { return Verdict::Temporary };
        let Ok(input) = checkpassword_input(credentials, unix_now().to_string().as_bytes()) else {
            return Verdict::Refused;
        };
        let pid = self.connection.end.pid();
        let verdict = match checkpassword::check(program, input, &self.environment(), *deadline).await {
            Answer::Accepted => Verdict::Accepted { relays: true },
            Answer::Rejected => Verdict::Refused,
            Answer::Temporary => Verdict::Temporary,
        };
        let result = match verdict {
            Verdict::Accepted { .. } => "success",
            Verdict::Refused => "failed",
            Verdict::TooMany | Verdict::Temporary => "deferred",
        };
        let (name, ip) = (credentials.user.escape_ascii(), asker.ip);
        tracing::info!("qmail-smtpd: pid {pid} auth {result} {name} at {ip}");
        if verdict != Verdict::Temporary {
            let success = verdict != Verdict::Refused;
            self.smtpd.users.remember(&account, credentials, asker.ip, success);
        }
        verdict
    }

    /// The environment of programs that run for the client.
    pub(super) fn environment(&self) -> Vec<(OsString, OsString)> {
        let os = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        let mut environment: Vec<_> =
            self.client.variables.iter().map(|(name, value)| (os(name), os(value))).collect();
        if let Some(user) = self.session.user() {
            environment.push(("SMTP_AUTH_USER".into(), os(user)));
        }
        if self.relays() && !self.client.is_set("RELAYCLIENT") {
            environment.push(("RELAYCLIENT".into(), OsString::new()));
        }
        if let Some(spf) = &self.spf {
            environment.push(("SPFRESULT".into(), spf.result.as_str().into()));
        }
        self.add_spp(&mut environment);
        environment
    }
}
