//! `blocktree tpm attest`: a machine shows to somebody elsewhere what its TPM is, how it started, and which node it runs. Files go
//! there and back in any way; who verifies needs no TPM.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use blocktree_engine::attestation::{Answer, Challenge, Expected, Kept, Request, Verified, verify};
use blocktree_engine::crypto::hexadecimal;
use blocktree_engine::format::Malformed;
use blocktree_engine::limits::ATTESTATION_FILE_BYTES_MAX;

use super::{PcrValues, parse_pcr_value, parse_pcrs};
use crate::commands::print;
use crate::failure::Result;
use crate::private_file;
use crate::store_key::parse_id;
use crate::tpm::{self, Tpm};

/// Show to others which TPM this machine has, how it started, and which node it runs
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// On the machine: ask to be challenged
    Request {
        /// A new file, for who verifies
        request: PathBuf,
    },
    /// Where it is verified: challenge the TPM of a request
    Challenge {
        /// What the machine made
        request: PathBuf,
        /// A new file, for the machine
        challenge: PathBuf,
        /// A new file to keep, and to show nobody
        kept: PathBuf,
        /// PCRs to be told the values of, such as 7 or 0,2,7
        #[arg(long, value_name = "LIST", default_value = "7", value_parser = parse_pcrs)]
        pcrs: u32,
    },
    /// On the machine: have the TPM answer
    Answer {
        /// The file that `tpm enroll` made for the store
        file: PathBuf,
        /// What the verifier made
        challenge: PathBuf,
        /// A new file, for who verifies
        answer: PathBuf,
    },
    /// Where it is verified: show what an answer proves, or refuse it
    Verify {
        /// What was kept of the challenge
        kept: PathBuf,
        /// What the machine made
        answer: PathBuf,
        /// The name that the TPM's endorsement key must have, as `tpm attest challenge` shows it
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        endorsement: Option<[u8; 32]>,
        /// A value of SHA-256 that a PCR must have, such as 7=1f3d...; may be repeated
        #[arg(long = "pcr", value_name = "NUMBER=VALUE", value_parser = parse_pcr_value)]
        pcrs: Vec<(u32, [u8; 32])>,
    },
}

pub(crate) fn run(command: &Command) -> Result<u8> {
    match command {
        Command::Request { request } => {
            private_file::refuse_existing(request)?;
            private_file::write_new(request, &Tpm::open()?.request_attestation()?.to_bytes())?;
        }
        Command::Challenge { request, challenge, kept, pcrs } => {
            private_file::refuse_existing(challenge)?;
            private_file::refuse_existing(kept)?;
            let request = read(request, Request::parse)?;
            let endorsement = describe_endorsement(&request)?;
            let (made, keep) = Challenge::make(request, *pcrs).context("no challenge was made")?;
            private_file::write_new(kept, &keep.to_bytes())?;
            let written = private_file::write_new(challenge, &made.to_bytes());
            if written.is_err() {
                let _ = std::fs::remove_file(kept);
            }
            written?;
            print(&endorsement)?;
        }
        Command::Answer { file, challenge, answer } => {
            private_file::refuse_existing(answer)?;
            let statement = tpm::read(file)?.node;
            let challenge = read(challenge, Challenge::parse)?;
            let answered = Tpm::open()?.answer(&challenge, &statement)?;
            private_file::write_new(answer, &answered.to_bytes())?;
        }
        Command::Verify { kept, answer, endorsement, pcrs } => {
            let kept_bytes = private_file::read_private(kept, ATTESTATION_FILE_BYTES_MAX)?;
            let kept =
                Kept::parse(&kept_bytes).with_context(|| format!("{} is of no use", kept.display()))?;
            let answered = read(answer, Answer::parse)?;
            let expected = Expected { endorsement: *endorsement, pcrs: pcrs.iter().copied().collect() };
            let verified = verify(&kept, &answered, &expected);
            let verified = verified.with_context(|| format!("{} proves nothing", answer.display()))?;
            print(&describe(&kept.request, &verified, &expected.pcrs)?)?;
        }
    }
    Ok(0)
}

fn read<T>(path: &Path, parse: impl FnOnce(&[u8]) -> std::result::Result<T, Malformed>) -> anyhow::Result<T> {
    let bytes = private_file::read(path, ATTESTATION_FILE_BYTES_MAX)?;
    parse(&bytes).with_context(|| format!("{} is of no use", path.display()))
}

fn describe(request: &Request, verified: &Verified, expected: &PcrValues) -> anyhow::Result<String> {
    let statement = &verified.statement;
    let mut text = format!(
        "Store:       {}\nNode:        {}\nTPM key:     {}\n{}",
        hexadecimal(&statement.store_id),
        statement.node,
        statement.key_fingerprint(),
        describe_endorsement(request)?
    );
    for (pcr, value) in &verified.pcrs {
        let how = if expected.contains_key(pcr) { "as expected" } else { "not compared with anything" };
        text += &format!("PCR {pcr:<9}{}, {how}\n", hexadecimal(value));
    }
    Ok(text)
}

fn describe_endorsement(request: &Request) -> anyhow::Result<String> {
    let certificate = match request.certificate_pem()? {
        None => "none in the TPM\n".to_owned(),
        Some(pem) => format!("for this key; whether its issuer is to be trusted was not looked at\n{pem}"),
    };
    Ok(format!("Endorsement: {}\nCertificate: {certificate}", hexadecimal(&request.endorsement_name())))
}

/// 64 hexadecimal digits.
fn parse_name(text: &str) -> std::result::Result<[u8; 32], String> {
    parse_id(text).map_err(|_| "the name of an endorsement key has 64 hexadecimal digits".to_owned())
}
