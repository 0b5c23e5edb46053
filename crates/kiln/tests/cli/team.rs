//! Several machines with the same project and a registry between them.

use kiln_registry::testing::{FakeRegistry, Options, Request};

use crate::environment::TestEnvironment;
use crate::wheels::{native, pure};

/// A registry, and the project of those who use it.
pub(crate) struct Team {
    pub(crate) registry: FakeRegistry,
    stack: String,
    lock: Option<String>,
}

impl Team {
    /// A team with two tiers on a base in `base/`; `REGISTRY` in the stack is the registry's address.
    pub(crate) fn new() -> Self {
        Self::with(Options::default(), "[cache]\nremote = \"REGISTRY/acme/cache\"\n")
    }

    /// A team whose registry behaves so, and with these lines in its stack.
    pub(crate) fn with(options: Options, lines: &str) -> Self {
        let registry = FakeRegistry::with(options);
        let stack = format!(
            "[stack]\nname = \"arr\"\nregistry = \"REGISTRY/acme\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\
             python = \"3.11\"\n\n[index]\nfind-links = [\"wheels\"]\n\n{lines}\n[images.ml]\nfrom = {{ oci = \"base\" }}\n\
             packages = [\"solver\", \"words<2\"]\n\n[images.train]\nfrom = \"ml\"\npackages = [\"greeting<1.1\", \"names\"]\n\
             copy = [{{ from = \"src\", to = \"/app\" }}]\nenv = {{ MODE = \"fast\" }}\n"
        );
        let stack = stack.replace("REGISTRY", &registry.address());
        Self { registry, stack, lock: None }
    }

    /// A machine with an empty store and with every wheel.
    pub(crate) fn machine(&self) -> TestEnvironment {
        let machine = self.bare_machine();
        machine.wheel(&native("solver", "3.0", "x86_64", 9_000_000));
        for (name, version) in [("greeting", "1.0"), ("greeting", "1.1"), ("names", "1.0"), ("words", "1.0")] {
            machine.wheel(&pure(name, version));
        }
        machine
    }

    /// A machine with an empty store and no wheel: what it needs it can only get from the others.
    pub(crate) fn bare_machine(&self) -> TestEnvironment {
        let machine = TestEnvironment::with_stack(&self.stack);
        machine.write("src/main.py", "print('hello')\n");
        if let Some(lock) = &self.lock {
            machine.write("kiln.lock", lock);
        }
        machine
    }

    /// Takes the lock of a machine as that of all.
    pub(crate) fn commit(&mut self, machine: &TestEnvironment) {
        self.lock = Some(machine.read("kiln.lock"));
        self.stack = machine.read("kiln.toml");
    }

    /// The kinds of requests since the last call, each once.
    pub(crate) fn requests(&self) -> Vec<Request> {
        let all: std::collections::BTreeSet<Request> =
            self.registry.log().into_iter().map(|logged| logged.request).collect();
        all.into_iter().filter(|request| *request != Request::Ping).collect()
    }
}
