import type { SqlAdapter } from '../../adapters/adapter.ts'
import type { OwnConnection } from '../../adapters/own-connection.ts'
import type { Naming } from '../migrations.ts'
import type { Runner } from '../runner.ts'
import type { Fragments } from './fragments.ts'

/** What the verbs of one database share. */
export interface Context<Tx> {
  readonly adapter: SqlAdapter<Tx>
  readonly naming: Naming
  readonly own: OwnConnection
  readonly runner: Runner<Tx>
  /** Of the tables where they are; the schema is looked up with the first look at the server, unless it was given. */
  readonly fragments: Fragments
}

/** The statements of a verb, compiled once, and once more when the schema has become known. */
export function compiled<Statements>(
  context: Pick<Context<never>, 'fragments'>,
  compile: (fragments: Fragments) => Statements,
): () => Statements {
  let fragments: Fragments | undefined
  let statements: Statements | undefined
  return () => {
    if (statements === undefined || fragments !== context.fragments) {
      fragments = context.fragments
      statements = compile(fragments)
    }
    return statements
  }
}
