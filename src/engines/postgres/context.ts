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
  readonly fragments: Fragments
}
