//! Envelopes and faults.

use zeroize::Zeroizing;

use crate::error::{Error, Fault, Result};
use crate::model::Moref;
use crate::xml::{self, Node};

/// The API version asked for: old enough for every supported server, new enough for every call made.
/// Servers keep answering prior versions (`/sdk/vimServiceVersions.xml`).
const ACTION: &str = "urn:vim25/6.7";
/// For the calls of the API that is not public.
const ACTION_INTERNAL: &str = "urn:internalvim25/6.7";

/// A call being put together.
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) repeatable: bool,
    internal: bool,
    body: Zeroizing<String>,
}

impl Call {
    /// A call that only asks, or may be made twice without harm.
    pub(crate) fn new(method: &'static str, this: &Moref) -> Self {
        // Zeroizing: the body of a login holds the password.
        let mut body = Zeroizing::new(String::new());
        xml::moref(&mut body, "_this", this);
        Call { method, repeatable: true, internal: false, body }
    }

    /// A call that changes something, so that it must not be repeated blindly.
    pub(crate) fn once(method: &'static str, this: &Moref) -> Self {
        Call { repeatable: false, ..Self::new(method, this) }
    }

    /// Of the API that is not public.
    pub(crate) fn internal(mut self) -> Self {
        self.internal = true;
        self
    }

    pub(crate) fn text(mut self, name: &str, value: impl AsRef<str>) -> Self {
        xml::tag(&mut self.body, name, value.as_ref());
        self
    }

    pub(crate) fn value(self, name: &str, value: impl ToString) -> Self {
        self.text(name, value.to_string())
    }

    pub(crate) fn moref(mut self, name: &str, object: &Moref) -> Self {
        xml::moref(&mut self.body, name, object);
        self
    }

    /// Ready XML.
    pub(crate) fn raw(mut self, xml: &str) -> Self {
        self.body.push_str(xml);
        self
    }

    pub(crate) fn action(&self) -> &'static str {
        if self.internal { ACTION_INTERNAL } else { ACTION }
    }

    pub(crate) fn envelope(&self) -> Zeroizing<String> {
        let namespace = if self.internal { "urn:internalvim25" } else { "urn:vim25" };
        let (method, body) = (self.method, self.body.as_str());
        Zeroizing::new(format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
             <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\" \
             xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>\
             <{method} xmlns=\"{namespace}\">{body}</{method}></soapenv:Body></soapenv:Envelope>"
        ))
    }

    /// Reads the answer to this call: the `…Response` element, or the fault as an error.
    pub(crate) fn answer(&self, status: u16, body: Vec<u8>) -> Result<Node> {
        let method = self.method;
        // SOAP faults come with status 500; anything else that is not 200 is not SOAP.
        if !matches!(status, 200 | 500) {
            return Err(Error::Http { method, status });
        }
        let parsed = xml::parse(body).and_then(|mut envelope| {
            let at = envelope.children.iter().position(|node| node.name == "Body").ok_or("no SOAP body")?;
            let body = envelope.children.swap_remove(at);
            body.children.into_iter().next().ok_or_else(|| "an empty SOAP body".to_owned())
        });
        match parsed {
            Ok(node) if node.name == "Fault" => Err(Error::Fault { method, fault: fault(&node) }),
            Ok(node) if status == 200 && node.name.strip_suffix("Response") == Some(method) => Ok(node),
            Err(what) if status == 200 => Err(Error::protocol(method, what)),
            Ok(node) if status == 200 => Err(Error::protocol(method, format!("answered with <{}>", node.name))),
            _ => Err(Error::Http { method, status }),
        }
    }
}

/// Reads a SOAP fault. The typed fault inside `detail` names the kind; servers that leave it out are
/// described by their text alone.
fn fault(node: &Node) -> Fault {
    let message = node.text_of("faultstring").unwrap_or_default().to_owned();
    let detail = node.child("detail").and_then(|detail| detail.children.first());
    let kind = match detail {
        Some(detail) => detail.xsi_type.clone().unwrap_or_else(|| detail.name.trim_end_matches("Fault").to_owned()),
        // A method that the server does not know has no typed fault of its own on old servers.
        None if message.contains("method") => "MethodNotFound".to_owned(),
        None => node.text_of("faultcode").unwrap_or("SystemError").to_owned(),
    };
    Fault { kind, message }
}

/// Reads a `LocalizedMethodFault`, as tasks and property collectors report them.
pub(crate) fn localized_fault(node: &Node) -> Fault {
    let kind = node.child("fault").and_then(|fault| fault.xsi_type.clone()).unwrap_or_else(|| "SystemError".to_owned());
    Fault { kind, message: node.string("localizedMessage").unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Result<Node> {
        let text = format!(
            "<e:Envelope xmlns:e='http://schemas.xmlsoap.org/soap/envelope/' \
             xmlns:xsi='http://www.w3.org/2001/XMLSchema-instance'><e:Body>{body}</e:Body></e:Envelope>"
        );
        Call::new("CurrentTime", &Moref::new("ServiceInstance", "ServiceInstance")).answer(status, text.into_bytes())
    }

    #[test]
    fn answers_and_faults_are_told_apart() {
        assert!(answer(200, "<CurrentTimeResponse><returnval>x</returnval></CurrentTimeResponse>").is_ok());
        let err = answer(
            500,
            "<e:Fault><faultcode>ServerFaultCode</faultcode><faultstring>no</faultstring><detail>\
             <NotAuthenticatedFault xsi:type='NotAuthenticated'/></detail></e:Fault>",
        )
        .unwrap_err();
        assert_eq!(err.fault(), Some("NotAuthenticated"));
        assert!(err.is_refused());
        assert!(matches!(answer(200, "<LoginResponse/>"), Err(Error::Protocol { .. })));
        assert!(matches!(answer(200, ""), Err(Error::Protocol { .. })));
        assert!(matches!(answer(503, "<CurrentTimeResponse/>"), Err(Error::Http { status: 503, .. })));
        assert!(matches!(answer(500, "<p>oops</p>"), Err(Error::Http { status: 500, .. })));
    }

    #[test]
    fn arguments_are_escaped() {
        let call = Call::once("CreateSnapshot_Task", &Moref::new("VirtualMachine", "vm-1")).text("name", "a</name><b>");
        assert!(call.envelope().contains("<name>a&lt;/name&gt;&lt;b&gt;</name>"));
        assert!(!call.repeatable);
    }
}
