// Package image turns image references into read-only base file systems that
// machines boot from.
//
// A Store pulls images from registries, or takes them from archives (an OCI
// layout, what docker save writes, a root filesystem), converts them in one
// pass to ext4 files, and keeps those in a cache that all machines share. It
// implements machine.Images.
//
// # Life of a pull
//
// Resolve asks the registry what the reference names now and, unless that is
// in the cache, starts a flight: one goroutine that pulls for all who want the
// same. Its layers arrive in parallel; each goes to a file under ingest/, so
// that a cut download, or one that a restart of the daemon ended, goes on
// where it was, and is at the same time read from there by package layer,
// which verifies it and streams the content of files into the base. When all
// layers are in, package merge decides which files the image shows, and
// package ext4 adds names and inodes. The base is synced, renamed, and last
// its record is written: that makes the image exist.
//
// # Files
//
// The directory of a Store holds, and only the Store touches:
//
//	lock                    held by the Store that uses the directory
//	base/<digest>.ext4      one file system for each image, named by its manifest
//	base/<digest>.json      its record; a base without one is removed at start
//	refs/<hash>.json        which image a reference named last
//	ingest/<hash>.partial   layers that arrive, by repository and digest
//	tmp/                    files that have no name yet; emptied at start
//
// # Who may have which image
//
// A public image, one that a registry gave to somebody without a login or that
// was imported, is for everybody, also while its registry is away. Any other
// is private: it is given only to a caller whose login the registry accepts
// for it at that moment, and only for a repository that it really came from,
// since a registry of the caller's own would accept anything. Where the
// repository is another, the caller has to pull the whole content again.
//
// An import gives its image a name for everybody: from then on that name is the
// imported image, and no registry is asked for it any more, whoever uses it and
// whatever its registry has under that name. Deleting the name ends that. Who
// may import is therefore trusted by all who start machines here; callers who
// must not shadow a name use a digest.
//
// List and Inspect tell which images are cached, the names of private ones
// included, but of those nothing that is in them. Delete removes any: it is for
// those who look after the cache.
//
// # What is not here
//
// Writable disks, building or pushing images, and any policy on who may use
// which registry. This package and the ones below it are the only importers
// of go-containerregistry. It imports package ext4 although both are adapters:
// ext4 is the format that is written here, and an interface between the two
// would only repeat its Node and its Writer.
//
// # Concurrency
//
// All methods of a Store are safe for concurrent use. Its mutex guards the maps
// and the small files behind them; no request and no conversion runs under it.
package image
