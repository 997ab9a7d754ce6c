{
  description = "Haima, a Matrix homeserver";

  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-unstable";

  outputs =
    { self, nixpkgs }:
    let
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "aarch64-darwin"
      ];
      each = make: nixpkgs.lib.genAttrs systems (system: make nixpkgs.legacyPackages.${system});
    in
    {
      packages = each (pkgs: {
        default = pkgs.rustPlatform.buildRustPackage {
          pname = "haima";
          version = (builtins.fromTOML (builtins.readFile ./Cargo.toml)).workspace.package.version;
          src = self;
          cargoLock.lockFile = ./Cargo.lock;
          nativeBuildInputs = [ pkgs.rustPlatform.bindgenHook ];
          cargoBuildFlags = [ "--bin=haima" ];
          # `make test` runs them; a sandboxed build has no loopback on every system.
          doCheck = false;
          meta = {
            description = "A Matrix homeserver";
            license = pkgs.lib.licenses.asl20;
            mainProgram = "haima";
          };
        };
      });

      devShells = each (pkgs: {
        default = pkgs.mkShell {
          nativeBuildInputs = [
            pkgs.rustPlatform.bindgenHook
            pkgs.cargo
            pkgs.rustc
            pkgs.clippy
            pkgs.rustfmt
            pkgs.cargo-nextest
            pkgs.gnumake
            pkgs.mdbook
          ];
        };
      });
    };
}
