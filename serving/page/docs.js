// The documentation of the API: Swagger UI for openapi.json, which lies beside this file.

/** @type {any} */ (window).SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger",
  deepLinking: true,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  validatorUrl: null,
});
