//! ROUTES_FILE: routes of what has no sidecar. The server registers them with itself, by the rules of any session.
//!
//! | module | what it does |
//! |---|---|
//! | `document` | pure: the text of the file |
//! | `sessions` | keeps a session for each service, as the file changes |

mod document;
mod sessions;

use std::path::PathBuf;

use registry_client::protocol::{InstanceName, ServiceName};
use registry_client::{Dialect, Intent, Routes, dry_run};

use document::Services;

pub use sessions::{Registry, keep_registered};

/// The largest file that is read.
const MAX_BYTES: usize = 1 << 20;

/// The file and the routes in it.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutesFile {
    /// ROUTES_FILE
    pub path: PathBuf,
    services: Services,
    /// The file's content, to notice a change.
    content: Vec<u8>,
}

impl RoutesFile {
    /// Takes a file's content.
    ///
    /// # Errors
    /// What is wrong in it, with line and column.
    pub fn parse(path: PathBuf, content: Vec<u8>) -> Result<Self, String> {
        if content.len() > MAX_BYTES {
            return Err("larger than 1 MiB".to_owned());
        }
        let text = std::str::from_utf8(&content).map_err(|_| "it is no UTF-8".to_owned())?;
        let services = document::parse(text)?;
        Ok(RoutesFile { path, services, content })
    }

    /// What the file means, for people: the commands by which its routes are registered.
    pub fn understood(&self, instance: &InstanceName) -> Vec<String> {
        let lines = |(service, routes): (&ServiceName, &Routes)| {
            let intent = intent(service, instance, routes);
            dry_run(&intent, &Dialect::ours())
        };
        self.services.iter().flat_map(lines).collect()
    }
}

fn intent(service: &ServiceName, instance: &InstanceName, routes: &Routes) -> Intent {
    let mut intent = Intent::new(service.clone(), instance.clone());
    intent.routes = routes.clone();
    intent
}
