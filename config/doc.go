// Package config reads relay.yaml and agent.yaml. It is strict: unknown keys, wrong units and settings that do not go
// together are errors that name file, line and column, say what to do, and come all at once.
//
// LoadRelay and LoadAgent look at nothing but the file; whether the paths in it exist is asked apart, with CheckPaths, since
// a target that is away must not keep a relay from starting. Binaries and verbs call it and hand the values on; it imports
// units, proto and flush/policy, and neither agent, relay nor flush may import it.
package config
