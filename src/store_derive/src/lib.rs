//! The derives of `store`: a struct with named fields as the key or the value of a table.
//!
//! A struct is encoded as the tuple of its fields in the order of their declaration. A field that is borrowed for writing has the
//! type of a parameter, and the parameter's default is what is read back: `struct Sender<S = String> { name: S }` is read as
//! `Sender<String>` and written from a `Sender<&str>` as well.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{
    Data, DeriveInput, Error, Fields, GenericParam, Generics, Ident, Type, parse_macro_input, parse_quote,
    spanned::Spanned,
    visit_mut::{self, VisitMut},
};

/// Makes a struct a key of tables, or a part of one: `Encode` and `Decode` for the struct, and `Prefix` for it and for tuples of its
/// leading fields.
#[proc_macro_derive(Key)]
pub fn key(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(&parse_macro_input!(input), Row::key).into()
}

/// Makes a struct a value of tables: `EncodeValue` and `Value`.
#[proc_macro_derive(Value)]
pub fn value(input: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(&parse_macro_input!(input), Row::value).into()
}

fn expand(input: &DeriveInput, impls: fn(&Row) -> TokenStream) -> TokenStream {
    Row::of(input).map_or_else(Error::into_compile_error, |row| impls(&row))
}

/// A struct that a derive stands on.
struct Row {
    ident: Ident,
    /// With a clause for each field that can be borrowed: it encodes as what is read back.
    generics: Generics,
    /// The struct as it is read: with the default of every parameter.
    stored: TokenStream,
    fields: Vec<Field>,
}

struct Field {
    ident: Ident,
    /// The field's type as it is read.
    stored: Type,
    /// Where the compiler's errors about the type point to.
    span: Span,
}

impl Row {
    fn of(input: &DeriveInput) -> syn::Result<Self> {
        let fields = match &input.data {
            Data::Struct(data) => match &data.fields {
                Fields::Named(fields) if !fields.named.is_empty() => &fields.named,
                _ => return Err(error(&input.ident, "a key or value of a table has named fields")),
            },
            _ => return Err(error(&input.ident, "a key or value of a table is a struct")),
        };
        let mut defaults = Defaults { of: Vec::new(), found: false };
        for parameter in &input.generics.params {
            let (ident, default) = parameter_default(parameter)?;
            let (default, _) = defaults.put_into(default);
            defaults.of.push((ident, default));
        }
        let mut generics = input.generics.clone();
        let clause = generics.make_where_clause();
        let mut row_fields = Vec::with_capacity(fields.len());
        for field in fields {
            let (stored, is_generic) = defaults.put_into(&field.ty);
            if is_generic {
                let ty = &field.ty;
                clause.predicates.push(parse_quote!(#ty: ::store::Encode<#stored>));
            }
            let ident = field.ident.clone().ok_or_else(|| error(field, "a field without a name"))?;
            // The names in the code that is generated are those of the macro, wherever the type comes from.
            row_fields.push(Field { ident, stored, span: field.ty.span().resolved_at(Span::call_site()) });
        }
        let ident = input.ident.clone();
        let arguments = defaults.of.iter().map(|(_, default)| default);
        let stored = if defaults.of.is_empty() { quote!(#ident) } else { quote!(#ident<#(#arguments),*>) };
        Ok(Self { ident, generics, stored, fields: row_fields })
    }

    fn key(&self) -> TokenStream {
        let Self { ident, stored, .. } = self;
        let (impl_generics, arguments, clause) = self.generics.split_for_impl();
        let (encode, decode) = (self.encode(), self.decode());
        let prefixes = (1..=self.fields.len()).map(|length| self.prefix(length));
        quote! {
            #[automatically_derived]
            impl #impl_generics ::store::Encode<#stored> for #ident #arguments #clause {
                fn encode(&self, w: &mut ::store::Writer) {
                    #encode
                }
            }

            #[automatically_derived]
            impl #impl_generics ::store::Encode<#stored> for &#ident #arguments #clause {
                fn encode(&self, w: &mut ::store::Writer) {
                    ::store::Encode::<#stored>::encode(*self, w);
                }
            }

            #[automatically_derived]
            impl ::store::Decode for #stored {
                fn decode(
                    r: &mut ::store::Reader<'_>,
                ) -> ::core::result::Result<Self, ::store::DecodeError> {
                    ::core::result::Result::Ok(#decode)
                }
            }

            #[automatically_derived]
            impl #impl_generics ::store::Prefix<#stored> for #ident #arguments #clause {
                fn encode_prefix(&self, w: &mut ::store::Writer) {
                    ::store::Encode::<#stored>::encode(self, w);
                }
            }

            #(#prefixes)*
        }
    }

    /// `Prefix` for tuples of as many leading fields.
    fn prefix(&self, length: usize) -> TokenStream {
        let stored = &self.stored;
        let parts: Vec<Ident> = (0..length).map(|index| format_ident!("Part{index}")).collect();
        let types = self.fields[..length].iter().map(|field| &field.stored);
        let indices = (0..length).map(syn::Index::from);
        quote! {
            #[automatically_derived]
            impl<#(#parts: ::store::Encode<#types>),*> ::store::Prefix<#stored> for (#(#parts,)*) {
                fn encode_prefix(&self, w: &mut ::store::Writer) {
                    #(self.#indices.encode(w);)*
                }
            }
        }
    }

    fn value(&self) -> TokenStream {
        let Self { ident, stored, .. } = self;
        let (impl_generics, arguments, clause) = self.generics.split_for_impl();
        let (encode, decode) = (self.encode(), self.decode());
        quote! {
            #[automatically_derived]
            impl #impl_generics ::store::EncodeValue<#stored> for #ident #arguments #clause {
                fn encode_value(&self, w: &mut ::store::Writer) {
                    #encode
                }
            }

            #[automatically_derived]
            impl ::store::Value for #stored {
                fn decode_value(
                    bytes: &[u8],
                ) -> ::core::result::Result<Self, ::store::DecodeError> {
                    let r = &mut ::store::Reader::new(bytes);
                    let value = #decode;
                    r.finish()?;
                    ::core::result::Result::Ok(value)
                }
            }
        }
    }

    fn encode(&self) -> TokenStream {
        let fields = self.fields.iter().map(|Field { ident, stored, span }| {
            quote_spanned!(*span=> ::store::Encode::<#stored>::encode(&self.#ident, w);)
        });
        fields.collect()
    }

    fn decode(&self) -> TokenStream {
        let fields = self.fields.iter().map(
            |Field { ident, stored, span }| quote_spanned!(*span=> #ident: <#stored as ::store::Decode>::decode(r)?,),
        );
        quote!(Self { #(#fields)* })
    }
}

fn parameter_default(parameter: &GenericParam) -> syn::Result<(Ident, &Type)> {
    match parameter {
        GenericParam::Type(parameter) => match &parameter.default {
            Some((_, default)) => Ok((parameter.ident.clone(), default)),
            None => Err(error(parameter, "the default of a parameter says what is read back: `S = String`")),
        },
        GenericParam::Lifetime(parameter) => {
            Err(error(parameter, "what is read back borrows nothing: make the field's type a parameter, `S = String`"))
        }
        GenericParam::Const(parameter) => Err(error(parameter, "a key or value of a table has no constant parameters")),
    }
}

fn error(at: impl ToTokens, message: &str) -> Error {
    Error::new_spanned(at, message)
}

/// Puts the defaults of parameters into types that name the parameters.
struct Defaults {
    of: Vec<(Ident, Type)>,
    found: bool,
}

impl Defaults {
    /// The type with defaults, and whether it names a parameter.
    fn put_into(&mut self, ty: &Type) -> (Type, bool) {
        let mut ty = ty.clone();
        self.found = false;
        self.visit_type_mut(&mut ty);
        (ty, self.found)
    }
}

impl VisitMut for Defaults {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        visit_mut::visit_type_mut(self, ty);
        if let Type::Path(path) = ty
            && let Some((_, default)) = self.of.iter().find(|(ident, _)| path.path.is_ident(ident))
        {
            *ty = default.clone();
            self.found = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the compiler would say.
    fn refusal(input: &DeriveInput) -> String {
        Row::of(input).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_is_no_row_is_refused_with_the_reason() {
        let named = "a key or value of a table has named fields";
        assert_eq!(
            refusal(&parse_quote!(
                struct Pair(u8, u8);
            )),
            named
        );
        assert_eq!(
            refusal(&parse_quote!(
                struct Nothing;
            )),
            named
        );
        assert_eq!(
            refusal(&parse_quote!(
                struct Empty {}
            )),
            named
        );
        assert_eq!(
            refusal(&parse_quote!(
                enum One {
                    Two,
                }
            )),
            "a key or value of a table is a struct"
        );
        assert!(
            refusal(&parse_quote!(
                struct Open<S> {
                    name: S,
                }
            ))
            .contains("`S = String`")
        );
        assert!(
            refusal(&parse_quote!(
                struct Borrowed<'a> {
                    name: &'a str,
                }
            ))
            .contains("borrows nothing")
        );
        assert!(
            refusal(&parse_quote!(
                struct Sized<const N: usize> {
                    bytes: [u8; N],
                }
            ))
            .contains("constant")
        );
        assert_eq!(
            refusal(&parse_quote!(
                struct Sender<S = String> {
                    name: S,
                }
            )),
            ""
        );
    }

    #[test]
    fn defaults_are_found_inside_of_types() {
        let row = Row::of(&parse_quote! {
            struct Row<S = String, L = Vec<S>> { name: Option<S>, list: L, number: u64 }
        });
        let row = row.expect("a row");
        let types: Vec<String> = row.fields.iter().map(|field| field.stored.to_token_stream().to_string()).collect();
        assert_eq!(types, ["Option < String >", "Vec < String >", "u64"]);
        assert_eq!(row.stored.to_string(), "Row < String , Vec < String > >");
        let clause = row.generics.where_clause.to_token_stream().to_string();
        assert_eq!(clause.matches("Encode").count(), 2, "{clause}");
    }
}
