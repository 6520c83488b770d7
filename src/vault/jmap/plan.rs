//! The first step of a request: read it, and get the bytes of its `Blob/upload` calls onto disk. Blocking.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::value::RawValue;

use super::{
    call::{Call, Fault, Planned, check_account, set_error, writes},
    email, k1_in,
    session::CAPABILITIES,
};
use crate::{
    message::{Fingerprint, Fingerprinter, K1},
    targets::jmap::shapes::{BlobUpload, Invocation, NewBlob, Problem, Request, SetError},
    vault::{
        Limits,
        auth::Scope,
        storage::{Store, StoreError, rows},
    },
};

/// A blob whose bytes are written.
pub(super) struct Upload {
    pub fingerprint: Fingerprint,
    pub bytes: u64,
    pub media_type: Option<String>,
}

pub(super) struct Plan {
    pub calls: Vec<Planned>,
    pub created: Option<BTreeMap<String, String>>,
    pub writes: bool,
}

impl Plan {
    /// Whether its answer hangs on how far the full-text search has come.
    pub(super) fn searches(&self) -> bool {
        self.calls.iter().any(|planned| match &planned.call {
            Call::Other { name, arguments } => {
                name == "Email/query" && email::is_searched(arguments.get())
            }
            Call::Upload(_) | Call::Failed(_) => false,
        })
    }
}

/// Why a request was not run at all.
pub(super) enum Rejected {
    Request(Problem),
    Store(StoreError),
}

impl From<StoreError> for Rejected {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

pub(super) fn problem(kind: &str, status: u16, detail: impl ToString) -> Problem {
    Problem {
        kind: format!("urn:ietf:params:jmap:error:{kind}"),
        status,
        detail: Some(detail.to_string()),
        limit: None,
    }
}

pub(super) fn over_limit(limit: &str, status: u16) -> Problem {
    Problem {
        limit: Some(limit.into()),
        ..problem("limit", status, format!("more than {limit} allows"))
    }
}

/// `written` names what is on disk afterwards, whether planning went well or not.
pub(super) fn plan(
    body: &[u8],
    store: &Store,
    limits: &Limits,
    scope: Scope,
    written: &mut Vec<K1>,
) -> Result<Plan, Rejected> {
    let request = read(body, limits).map_err(Rejected::Request)?;
    let mut uploads = Uploads {
        store,
        limits,
        written,
        named: HashMap::new(),
        bytes: Vec::new(),
    };
    let mut planned = Vec::with_capacity(request.method_calls.len());
    let mut any_writes = false;
    for Invocation(name, arguments, id) in request.method_calls {
        any_writes |= writes(&name);
        let call = match &*name {
            "Blob/upload" if scope.may(&name) => uploads.call(arguments)?,
            _ => Call::Other {
                name: name.into_owned(),
                arguments: arguments.to_owned(),
            },
        };
        planned.push(Planned {
            call,
            id: id.into_owned(),
        });
    }
    Ok(Plan {
        calls: planned,
        created: request.created_ids,
        writes: any_writes,
    })
}

fn read<'a>(body: &'a [u8], limits: &Limits) -> Result<Request<'a>, Problem> {
    let text = std::str::from_utf8(body).map_err(|e| problem("notJSON", 400, e))?;
    let request: Request<'_> = serde_json::from_str(text).map_err(|error| {
        let kind = match error.classify() {
            serde_json::error::Category::Data => "notRequest",
            _ => "notJSON",
        };
        problem(kind, 400, error)
    })?;
    if request.method_calls.len() as u64 > limits.calls_max {
        return Err(over_limit("maxCallsInRequest", 400));
    }
    let known: BTreeSet<&str> = CAPABILITIES.into();
    for capability in &request.using {
        if !known.contains(&**capability) {
            return Err(problem("unknownCapability", 400, capability));
        }
    }
    Ok(request)
}

struct Uploads<'a> {
    store: &'a Store,
    limits: &'a Limits,
    written: &'a mut Vec<K1>,
    /// Creation id → blob, for `#` references between the uploads of one request.
    named: HashMap<String, K1>,
    /// Decoded bytes of the blob at hand; one at a time is in memory.
    bytes: Vec<u8>,
}

impl Uploads<'_> {
    fn call(&mut self, arguments: &RawValue) -> Result<Call, StoreError> {
        let upload: BlobUpload<'_> = match serde_json::from_str(arguments.get()) {
            Ok(upload) => upload,
            Err(error) => return Ok(Call::Failed(Fault::arguments(error))),
        };
        if let Err(fault) = check_account(&upload.account_id) {
            return Ok(Call::Failed(fault));
        }
        if upload.create.len() as u64 > self.limits.objects_max {
            return Ok(Call::Failed(Fault::Method(
                "requestTooLarge",
                String::new(),
            )));
        }
        let mut made = Vec::with_capacity(upload.create.len());
        for (creation_id, new) in &upload.create {
            let blob = self.blob(new)?;
            if let Ok(blob) = &blob {
                self.named
                    .insert(creation_id.to_string(), blob.fingerprint.k1);
            }
            made.push((creation_id.to_string(), blob));
        }
        Ok(Call::Upload(made))
    }

    fn blob(&mut self, new: &NewBlob<'_>) -> Result<Result<Upload, SetError>, StoreError> {
        if let Err(error) = self.gather(new)? {
            return Ok(Err(error));
        }
        let fingerprint = Fingerprinter::of(&self.bytes);
        let known = self.store.read_blocking(|index| {
            Ok::<_, StoreError>(rows::blob(index, &fingerprint.k1)?.is_some())
        })?;
        if !known {
            // Before the attempt: a half written file is discarded like a whole one, when no upload is under way.
            self.written.push(fingerprint.k1);
            let written = self.store.blobs.write(&fingerprint.k1, &self.bytes);
            written.map_err(|e| StoreError::io("blob", e))?;
        }
        Ok(Ok(Upload {
            fingerprint,
            bytes: self.bytes.len() as u64,
            media_type: new.media_type.as_ref().map(|text| text.0.to_string()),
        }))
    }

    /// Puts the data sources one after the other into `bytes` (RFC 9404 section 4.1).
    fn gather(&mut self, new: &NewBlob<'_>) -> Result<Result<(), SetError>, StoreError> {
        self.bytes.clear();
        for source in &new.data {
            match (&source.as_base64, &source.as_text, &source.blob_id) {
                (Some(text), None, None) => {
                    if STANDARD
                        .decode_vec(text.0.as_bytes(), &mut self.bytes)
                        .is_err()
                    {
                        return Ok(Err(set_error("invalidProperties", "data:asBase64")));
                    }
                }
                (None, Some(text), None) => self.bytes.extend_from_slice(text.0.as_bytes()),
                (None, None, Some(id)) => {
                    let found = match self.source(&id.0)? {
                        Some(found) => found,
                        None => return Ok(Err(set_error("blobNotFound", &id.0))),
                    };
                    let range = super::blob::range(found.len(), source.offset, source.length);
                    match range {
                        Some(range) => self.bytes.extend_from_slice(&found[range]),
                        None => return Ok(Err(set_error("invalidProperties", "offset, length"))),
                    }
                }
                _ => return Ok(Err(set_error("invalidProperties", "data"))),
            }
            if self.bytes.len() as u64 > self.limits.request_bytes_max {
                return Ok(Err(set_error("tooLarge", "maxSizeBlobSet")));
            }
        }
        Ok(Ok(()))
    }

    fn source(&self, id: &str) -> Result<Option<Cow<'static, [u8]>>, StoreError> {
        let k1 = match id.strip_prefix('#') {
            Some(creation_id) => self.named.get(creation_id).copied(),
            None => {
                let asked = k1_in(id, 'G');
                let known = |k1| {
                    self.store.read_blocking(|index| {
                        Ok::<_, StoreError>(rows::blob(index, &k1)?.map(|blob| blob.k1))
                    })
                };
                asked.map(known).transpose()?.flatten()
            }
        };
        let Some(k1) = k1 else { return Ok(None) };
        // One byte more than allowed, so that too large shows as too large.
        let bytes = self
            .store
            .blobs
            .read(&k1, self.limits.request_bytes_max + 1);
        bytes
            .map(|bytes| Some(bytes.into()))
            .map_err(|e| StoreError::io("blob", e))
    }
}
