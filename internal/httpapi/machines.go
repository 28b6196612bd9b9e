package httpapi

import (
	"context"
	"errors"
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/hyperfleet/hyperfleet"
	"github.com/hyperfleet/hyperfleet/internal/auth"
	"github.com/hyperfleet/hyperfleet/internal/errdefs"
	"github.com/hyperfleet/hyperfleet/internal/machine"
)

// MachineParam is the part of an input that names the machine. (The types that
// inputs embed are exported because huma skips embedded fields that are not.)
type MachineParam struct {
	ID string `path:"id" doc:"Id of the machine"`
}

func (m MachineParam) parse() (machine.ID, error) {
	id, err := machine.ParseID(m.ID)
	if err != nil {
		return "", errNoMachine
	}
	return id, nil
}

// errNoMachine is the contract's wording; machineErr gives it to every "not
// found" of a machine.
var errNoMachine = errdefs.New(errdefs.NotFound, "NOT_FOUND", "Machine not found")

func machineErr(err error) error {
	if errdefs.Is(err, errdefs.NotFound) && errdefs.CodeOf(err) == "NOT_FOUND" {
		return errNoMachine
	}
	return err
}

// lowerNotFound gives a missing machine the name that GET and DELETE of the
// contract have for it.
func lowerNotFound(err error) error {
	if err = machineErr(err); errors.Is(err, errNoMachine) {
		e := publicError(err)
		e.body.Error = "not_found"
		return e
	}
	return err
}

func (s *Server) registerMachines() {
	tags := []string{"machines"}
	register(s, huma.Operation{OperationID: "listMachines", Security: needs(auth.MachinesRead), Method: http.MethodGet, Path: "/machines", Summary: "List machines, newest first", Tags: tags,
		Responses: map[string]*huma.Response{"200": {Description: "The machines", Content: listContent[hyperfleet.Machine](s)}}}, s.listMachines, ofStore)
	register(s, s.idempotent(huma.Operation{OperationID: "createMachine", Security: needs(auth.MachinesWrite), Method: http.MethodPost, Path: "/machines", Summary: "Create a machine", Tags: tags, DefaultStatus: http.StatusCreated}, runAgain), s.createMachine, ofStore, ofStart, failures{errdefs.NotFound, errdefs.Conflict, errdefs.Exhausted, errdefs.Timeout})
	register(s, huma.Operation{OperationID: "getMachine", Security: needs(auth.MachinesRead), Method: http.MethodGet, Path: "/machines/{id}", Summary: "Get a machine", Tags: tags}, s.getMachine, ofMachine)
	register(s, huma.Operation{OperationID: "waitMachine", Security: needs(auth.MachinesRead), Method: http.MethodGet, Path: "/machines/{id}/wait", Summary: "Wait until a machine is in a state", Tags: tags}, s.waitMachine, ofMachine, failures{errdefs.Timeout})
	register(s, s.idempotent(huma.Operation{OperationID: "deleteMachine", Security: needs(auth.MachinesWrite), Method: http.MethodDelete, Path: "/machines/{id}", Summary: "End and remove a machine", Tags: tags, DefaultStatus: http.StatusNoContent}, runAgain), s.deleteMachine, ofChange)
	register(s, s.idempotent(huma.Operation{OperationID: "startMachine", Security: needs(auth.MachinesWrite), Method: http.MethodPost, Path: "/machines/{id}/start", Summary: "Start a machine", Tags: tags}, runAgain), s.change(s.cfg.Machines.Start), ofChange, ofStart)
	register(s, s.idempotent(huma.Operation{OperationID: "stopMachine", Security: needs(auth.MachinesWrite), Method: http.MethodPost, Path: "/machines/{id}/stop", Summary: "Stop a machine", Tags: tags}, runAgain), s.change(s.cfg.Machines.Stop), ofChange)
	register(s, s.idempotent(huma.Operation{OperationID: "restartMachine", Security: needs(auth.MachinesWrite), Method: http.MethodPost, Path: "/machines/{id}/restart", Summary: "Stop, then start a machine", Tags: tags}, runAgain), s.change(s.cfg.Machines.Restart), ofChange, ofStart)
	register(s, s.idempotent(huma.Operation{OperationID: "pauseMachine", Security: needs(auth.MachinesWrite), Method: http.MethodPost, Path: "/machines/{id}/pause", Summary: "Stop a machine's vCPUs; its memory stays", Tags: tags}, runAgain), s.change(s.cfg.Machines.Pause), ofChange, failures{errdefs.Unsupported, errdefs.Guest})
	register(s, s.idempotent(huma.Operation{OperationID: "resumeMachine", Security: needs(auth.MachinesWrite), Method: http.MethodPost, Path: "/machines/{id}/resume", Summary: "Let a paused machine go on, with its clock set", Tags: tags}, runAgain), s.change(s.cfg.Machines.Resume), ofChange, failures{errdefs.Unsupported, errdefs.Guest})
	register(s, huma.Operation{OperationID: "machineConsole", Security: needs(auth.MachinesRead), Method: http.MethodGet, Path: "/machines/{id}/console", Summary: "Read the serial console's record", Tags: tags,
		Responses: map[string]*huma.Response{"200": {Description: "The record, oldest byte first", Content: binaryContent("text/plain")}}}, s.console, ofMachine)
	s.registerLogs(tags)
}

type listInput struct {
	Accept string `header:"Accept" doc:"application/vnd.hyperfleet.nested+json for an object with the total"`
	Status string `query:"status" enum:"pending,starting,running,paused,stopping,stopped,failed" doc:"Only machines in this state"`
	Limit  int    `query:"limit" minimum:"0" doc:"At most so many; 0 means all"`
	Offset int    `query:"offset" minimum:"0"`
}

type listOutput struct {
	Total       string `header:"X-Total-Count" doc:"How many there are without limit and offset"`
	ContentType string `header:"Content-Type"`
	Body        any
}

func (s *Server) listMachines(ctx context.Context, in *listInput) (*listOutput, error) {
	list, total, err := s.cfg.Machines.List(ctx, machine.Filter{State: machine.State(in.Status), Limit: in.Limit, Offset: in.Offset})
	if err != nil {
		return nil, err
	}
	views := make([]hyperfleet.Machine, len(list))
	for i, m := range list {
		views[i] = s.view(m)
	}
	out := &listOutput{Total: strconv.Itoa(total), ContentType: mediaJSON, Body: views}
	if wantsNested(in.Accept) {
		out.ContentType, out.Body = mediaNested, page[hyperfleet.Machine]{views, total, in.Limit, in.Offset}
	}
	return out, nil
}

type createInput struct {
	Body createBody
}

// createBody is the request with the fields that callers of the reference
// implementation may still send, to tell them why they cannot have them.
type createBody struct {
	hyperfleet.CreateMachineRequest
	Network *networkBody `json:"network,omitempty"`
	// ExposedPorts takes any number, since the contract has its own words for
	// one that is no port.
	ExposedPorts []float64 `json:"exposed_ports,omitempty" maxItems:"256" doc:"TCP ports of the guest that may be reached, whole numbers from 1 to 65535"`
}

type networkBody struct {
	hyperfleet.NetworkRequest
	TapDevice string `json:"tap_device,omitempty" deprecated:"true" doc:"Refused: the host's devices are the server's choice"`
	TapIP     string `json:"tap_ip,omitempty" deprecated:"true" doc:"Refused"`
	GuestIP   string `json:"guest_ip,omitempty" deprecated:"true" doc:"Refused"`
	GuestMAC  string `json:"guest_mac,omitempty" deprecated:"true" doc:"Refused"`
}

func (s *Server) createMachine(ctx context.Context, in *createInput) (*response[hyperfleet.Machine], error) {
	spec, err := in.Body.spec()
	if err != nil {
		return nil, err
	}
	if s.cfg.NoNetwork != nil && spec.Network.Enable {
		if in.Body.Network != nil {
			return nil, s.cfg.NoNetwork
		}
		spec.Network.Enable = false // it did not ask
	}
	caller, _ := auth.CallerFrom(ctx)
	req := machine.CreateRequest{Owner: string(caller.KeyID), Spec: spec}
	if a := in.Body.RegistryAuth; a != nil {
		req.Auth = &machine.RegistryAuth{Username: a.Username, Password: a.Password}
	}
	if o := onceOf(ctx); o != nil {
		req.ID = machine.ID(o.attempt.Reference)
		if o.attempt.Again { // the daemon may have died after it had made the machine
			if m, err := s.cfg.Machines.Get(ctx, req.ID); err == nil {
				return &response[hyperfleet.Machine]{s.view(m)}, nil
			}
		}
	}
	m, err := s.cfg.Machines.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return &response[hyperfleet.Machine]{s.view(m)}, nil
}

func (s *Server) getMachine(ctx context.Context, in *MachineParam) (*response[hyperfleet.Machine], error) {
	id, err := in.parse()
	if err != nil {
		return nil, lowerNotFound(err)
	}
	m, err := s.cfg.Machines.Get(ctx, id)
	if err != nil {
		return nil, lowerNotFound(err)
	}
	return &response[hyperfleet.Machine]{s.view(m)}, nil
}

type waitInput struct {
	MachineParam
	Status  string  `query:"status" required:"true" enum:"pending,starting,running,paused,stopping,stopped,failed"`
	Timeout float64 `query:"timeout" minimum:"1" maximum:"30" default:"30" doc:"Seconds"`
}

func (s *Server) waitMachine(ctx context.Context, in *waitInput) (*response[hyperfleet.Machine], error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	if math.IsNaN(in.Timeout) {
		return nil, errdefs.New(errdefs.Invalid, "VALIDATION_ERROR", "timeout is not a number")
	}
	ctx, cancel := context.WithTimeout(ctx, seconds(in.Timeout))
	defer cancel()
	m, err := s.cfg.Machines.Wait(ctx, id, machine.State(in.Status))
	if errdefs.Is(err, errdefs.Timeout) {
		return nil, errdefs.Wrap(err, errdefs.Timeout, "TIMEOUT_ERROR", "Timed out waiting for machine %s to reach status %s", id, in.Status)
	}
	if err != nil {
		return nil, machineErr(err)
	}
	return &response[hyperfleet.Machine]{s.view(m)}, nil
}

func (s *Server) deleteMachine(ctx context.Context, in *MachineParam) (*struct{}, error) {
	id, err := in.parse()
	if err == nil {
		err = s.cfg.Machines.Delete(ctx, id)
	}
	return nil, lowerNotFound(err)
}

// change is the handler of a method that brings a machine into another state.
func (s *Server) change(act func(context.Context, machine.ID) (machine.Machine, error)) func(context.Context, *MachineParam) (*response[hyperfleet.Machine], error) {
	return func(ctx context.Context, in *MachineParam) (*response[hyperfleet.Machine], error) {
		id, err := in.parse()
		if err != nil {
			return nil, err
		}
		m, err := act(ctx, id)
		if err != nil {
			return nil, machineErr(err)
		}
		return &response[hyperfleet.Machine]{s.view(m)}, nil
	}
}

func (s *Server) console(ctx context.Context, in *MachineParam) (*huma.StreamResponse, error) {
	id, err := in.parse()
	if err != nil {
		return nil, err
	}
	f, err := s.cfg.Machines.Console(ctx, id)
	if err != nil {
		return nil, machineErr(err)
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		defer f.Close()
		hc.SetHeader("Content-Type", "text/plain; charset=utf-8")
		hc.SetHeader("X-Content-Type-Options", "nosniff")
		hc.SetStatus(http.StatusOK)
		if _, err := io.Copy(hc.BodyWriter(), struct{ io.Reader }{f}); err != nil {
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

// running refuses what needs a running machine, in the contract's words.
func (s *Server) running(ctx context.Context, id machine.ID, what string) error {
	m, err := s.cfg.Machines.Get(ctx, id)
	if err != nil {
		return machineErr(err)
	}
	if m.State != machine.Running {
		return machine.NotRunningError(m.State, what)
	}
	return nil
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
