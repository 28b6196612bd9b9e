package httpapi

import (
	"net/http"
	"slices"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
)

// codeExample is an error that callers may meet, for the document: the first
// of a kind without tags stands for what has no line of its own.
type codeExample struct {
	kind    errdefs.Kind
	code    string
	message string
	tags    []string // of the operations that may answer with it; none: all
}

// codeQuota is the code of every quota.
const codeQuota = "QUOTA_EXCEEDED"

// codeExamples are the codes that programs have most use for.
var codeExamples = []codeExample{
	{errdefs.Invalid, "VALIDATION_ERROR", "exposed_ports must be valid TCP ports", []string{"machines"}},
	{errdefs.Invalid, "PATH_TRAVERSAL_ERROR", "Path traversal attempt detected", []string{"machines"}},
	{errdefs.Invalid, "INVALID_IMAGE_REF", "image reference \"Alpine\": repository must be lower case", []string{"machines", "images"}},
	{errdefs.Invalid, "IMAGE_CORRUPT", "image alpine:3.20: layer 1 is cut", []string{"machines", "images"}},
	{errdefs.Invalid, "VALIDATION_ERROR", "Machine must be running to execute commands", []string{"exec"}},
	{errdefs.Invalid, "VALIDATION_ERROR", "Machine must be running for file operations", []string{"files"}},
	{errdefs.Invalid, "FILE_IS_A_DIRECTORY", "read /etc: is a directory", []string{"files"}},
	{errdefs.Invalid, "VALIDATION_ERROR", "expires_at has passed already", []string{"keys"}},
	{errdefs.Invalid, "VALIDATION_ERROR", "the request cannot work as it stands", nil},

	{errdefs.Unauthorized, "REGISTRY_UNAUTHORIZED", "the registry refused the login for image registry.test/app:1", []string{"machines", "images"}},
	{errdefs.Unauthorized, "UNAUTHORIZED", "Invalid or missing API key", nil},

	{errdefs.Forbidden, "PATH_NOT_ALLOWED", "Kernel image is in no allowed folder: /srv/vmlinux", []string{"machines"}},
	{errdefs.Forbidden, "FILE_PERMISSION", "write /proc/version: permission denied", []string{"files"}},
	{errdefs.Forbidden, "FORBIDDEN", "The API key has no scope for this", nil},

	{errdefs.NotFound, "NOT_FOUND", "Machine not found", []string{"machines", "exec", "files"}},
	{errdefs.NotFound, "EXEC_NOT_FOUND", "command \"c1\" is not known", []string{"exec"}},
	{errdefs.NotFound, "FILE_NOT_FOUND", "stat /nowhere: no such file or directory", []string{"files"}},
	{errdefs.NotFound, "IMAGE_NOT_FOUND", "image docker.io/library/nosuch:latest not found", []string{"images", "machines"}},
	{errdefs.NotFound, "NOT_FOUND", "API key not found", []string{"keys"}},
	{errdefs.NotFound, "NOT_FOUND", "Not found", nil},

	{errdefs.Conflict, "IDEMPOTENCY_KEY_REUSED", "this Idempotency-Key was used for another request", []string{"machines", "exec", "images"}},
	{errdefs.Conflict, "IDEMPOTENCY_OUTCOME_UNKNOWN", "the first request with this Idempotency-Key was cut off: look whether it had its effect, then use another key", []string{"exec"}},
	{errdefs.Conflict, "STATE_CONFLICT", "machine is stopping and cannot become running", []string{"machines"}},
	{errdefs.Conflict, "START_CANCELLED", "start was cancelled: the machine is being stopped", []string{"machines"}},
	{errdefs.Conflict, "EXEC_EXISTS", "a command with the id \"c1\" exists", []string{"exec"}},
	{errdefs.Conflict, "FILE_DIRECTORY_NOT_EMPTY", "remove /srv: directory not empty", []string{"files"}},
	{errdefs.Conflict, "IMAGE_IN_USE", "image alpine:3.20 is used by a machine", []string{"images"}},
	{errdefs.Conflict, "CONFLICT", "its state excludes this", nil},

	{errdefs.Exhausted, "DISK_FULL", "no disk space left: create the machine's disk", []string{"machines"}},
	{errdefs.Exhausted, "IMAGE_TOO_LARGE", "image registry.test/app:1 is larger than the server's limit", []string{"images", "machines"}},
	{errdefs.Exhausted, "OUTPUT_TOO_LARGE", errSpoolFull.Message, []string{"exec"}},
	{errdefs.Exhausted, "GUEST_NO_SPACE", "write /f: no space left on device", []string{"files"}},
	{errdefs.Exhausted, "KEY_LIMIT", "there are 10000 API keys already: revoke those that nobody uses", []string{"keys"}},
	{errdefs.Exhausted, "EXHAUSTED", "a limit is reached", nil},

	{errdefs.Quota, codeQuota, "this key's quota of machines is used up: 1 asked for, 10 of 10 used", nil},
	{errdefs.Throttled, "TOO_MANY_EXECS", "this key runs as many commands at a time as it may: 256", []string{"exec"}},
	{errdefs.Throttled, "TOO_MANY_PULLS", "this key pulls as many images at a time as it may: 4", []string{"images"}},
	{errdefs.Throttled, "TOO_MANY_REQUESTS", "too many at a time", nil},

	{errdefs.Unsupported, "NETWORK_UNAVAILABLE", "machines have no network on this host", []string{"machines"}},
	{errdefs.Unsupported, "IMAGE_NO_PLATFORM", "image registry.test/app:1 has no variant for linux/amd64", []string{"images"}},
	{errdefs.Unsupported, "UNSUPPORTED", "this host cannot do it", nil},

	{errdefs.Unavailable, "REGISTRY_UNAVAILABLE", "the registry registry.test does not answer", []string{"images", "machines"}},
	{errdefs.Unavailable, "GUEST_CONNECTION_LOST", "exec: connection to the guest of machine k3x9v2m1q8zt was lost", []string{"exec"}},
	{errdefs.Unavailable, "NOT_READY", "not ready: kernel: no guest kernel is installed: run `hyperfleet setup`", []string{"system"}},
	{errdefs.Unavailable, "SHUTTING_DOWN", "the daemon is shutting down", nil},

	{errdefs.Timeout, "TIMEOUT_ERROR", "Timed out waiting for machine k3x9v2m1q8zt to reach status running", []string{"machines"}},
	{errdefs.Timeout, "TIMEOUT_ERROR", "Command execution timed out after 30 seconds", []string{"exec"}},
	{errdefs.Timeout, "TIMEOUT_ERROR", "a deadline passed", nil},

	{errdefs.Guest, "VSOCK_ERROR", "the guest did not answer as it should", nil},
	{errdefs.Runtime, "VMM_EXITED", "the VMM ended with status 1", []string{"machines"}},
	{errdefs.Runtime, "RUNTIME_ERROR", "the machine could not be run", nil},
	{errdefs.Internal, "INTERNAL_ERROR", "An unexpected error occurred", nil},
}

// examplesOf are the errors of a class that an operation with the tags may
// answer with.
func examplesOf(c errorClass, tags []string) []hyperfleet.ErrorBody {
	var found []hyperfleet.ErrorBody
	for _, e := range codeExamples {
		shared := len(e.tags) == 0 && len(found) == 0
		named := slices.ContainsFunc(e.tags, func(tag string) bool { return slices.Contains(tags, tag) })
		if e.kind != c.kind || !shared && !named {
			continue
		}
		body := hyperfleet.ErrorBody{Error: c.name, Message: e.message, Code: e.code}
		if name, ok := codeNames[e.code]; ok {
			body.Error = name
		}
		found = append(found, body)
	}
	return found
}

// refusalExamples are the messages of refusals in the document.
var refusalExamples = map[int]string{
	http.StatusBadRequest:            "validation failed",
	http.StatusForbidden:             "Cross-origin requests are refused",
	http.StatusRequestTimeout:        "request body read timeout",
	http.StatusMisdirectedRequest:    "This listener answers for localhost only",
	http.StatusTooManyRequests:       "Too many failed attempts",
	http.StatusRequestEntityTooLarge: "request body is too large limit=1048576 bytes",
}
