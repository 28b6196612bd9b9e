package httpapi

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/hyperfleet/hyperfleet"
)

// clientCalls is the operation that each method of the Go client calls first.
var clientCalls = map[string]string{
	"Health": "health", "Ready": "ready", "Version": "version",
	"CreateMachine": "createMachine", "ListMachines": "listMachines", "ListMachinesPage": "listMachines", "Machines": "listMachines",
	"Machine": "getMachine", "DeleteMachine": "deleteMachine",
	"StartMachine": "startMachine", "StopMachine": "stopMachine", "RestartMachine": "restartMachine",
	"PauseMachine": "pauseMachine", "ResumeMachine": "resumeMachine", "WaitMachine": "waitMachine",
	"Console": "machineConsole", "MachineLogs": "machineLogs", "MachineLogEntries": "machineLogs",
	"Exec": "exec", "ExecStream": "exec", "AttachExec": "attachExec", "ExecStatus": "execStatus",
	"ReadFile": "readFile", "WriteFile": "putFile", "Stat": "statFile", "ListFiles": "listFiles",
	"RemoveFile": "removeFile", "Mkdir": "mkdir", "RenameFile": "renameFile",
	"PullImage": "pullImage", "ImportImage": "importImage", "ListImages": "listImages", "Image": "getImage",
	"DeleteImage": "deleteImage", "PruneImages": "pruneImages",
	"CreateKey": "createKey", "ListKeys": "listKeys", "Keys": "listKeys", "Key": "getKey", "RevokeKey": "revokeKey",
}

// withoutClient are operations that the client does without, and methods that
// call none, with the reason.
var withoutClient = map[string]string{
	"uploadFile":           "the same as putFile, in base64",
	"CloseIdleConnections": "closes, and asks nothing",
}

// Routes, document and client are the same: each operation of the document has
// a method of the client that asks for its route, and each method an operation.
func TestClientIsTheDocument(t *testing.T) {
	a := newAPI(t)
	missing := map[string]bool{}
	ids := map[string]string{} // by pattern of the mux
	for path, item := range a.server.api.OpenAPI().Paths {
		for _, op := range operationsOf(item) {
			missing[op.OperationID] = withoutClient[op.OperationID] == ""
			ids[op.Method+" "+path] = op.OperationID
		}
	}
	client := reflect.TypeFor[*hyperfleet.Client]()
	for method := range client.Methods() {
		if withoutClient[method.Name] != "" {
			continue
		}
		req := firstRequest(t, method)
		if req == nil {
			t.Errorf("Client.%s asks for nothing", method.Name)
			continue
		}
		_, pattern := a.server.mux.Handler(req)
		got := ids[strings.ReplaceAll(pattern, "...}", "}")]
		if got == "" || got != clientCalls[method.Name] {
			t.Errorf("Client.%s asks for %s %s, operation %q; want %q: tell it in clientCalls", method.Name, req.Method, req.URL.Path, got, clientCalls[method.Name])
		}
		missing[got] = false
	}
	for id, lacks := range missing {
		if lacks {
			t.Errorf("no method of the client calls operation %s", id)
		}
	}
	for name := range clientCalls {
		if _, ok := client.MethodByName(name); !ok {
			t.Errorf("the client has no method %s", name)
		}
	}
}

// firstRequest calls a method of the client with arguments of little sense and
// returns what it asks for.
func firstRequest(t *testing.T, method reflect.Method) (first *http.Request) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	client := &hyperfleet.Client{Host: "http://hyperfleet.test", Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		if first == nil {
			first = r
		}
		cancel() // some try again
		return nil, errors.New("recorded")
	})}
	args := []reflect.Value{reflect.ValueOf(client), reflect.ValueOf(ctx)}
	for i := len(args); i < method.Type.NumIn(); i++ {
		arg := reflect.New(method.Type.In(i)).Elem()
		if arg.Kind() == reflect.String {
			arg.SetString("x")
		}
		args = append(args, arg)
	}
	var results []reflect.Value
	if method.Type.IsVariadic() {
		results = method.Func.CallSlice(args)
	} else {
		results = method.Func.Call(args)
	}
	if len(results) == 1 && results[0].Kind() == reflect.Func { // an iterator asks when it is used
		for range results[0].Seq2() {
			break
		}
	}
	return first
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
