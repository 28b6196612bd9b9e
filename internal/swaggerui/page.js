"use strict";

// A key that is entered here stays in this page: it is gone with it.
window.ui = SwaggerUIBundle({
  dom_id: "#swagger-ui",
  url: new URL("json", document.baseURI).href,
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  docExpansion: "list",
  persistAuthorization: false,
  validatorUrl: null,
  onComplete: () => { document.documentElement.dataset.loaded = "yes"; },
});
