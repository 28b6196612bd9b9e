// Package certificate keeps the certificate of the API's TLS listener: the
// operator's own files, read again when they change, or a self-signed one that
// is made here and renewed in time.
//
// There is no goroutine and no watcher: a handshake that comes a second after
// the last look has the files looked at. Files that do not go together (half of
// a replacement, a bad copy) leave the last good pair in use and are told once.
//
// What is not here: the listener and its protocol versions (package daemon),
// and the client's trust (the root package).
package certificate
