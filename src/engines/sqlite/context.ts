import type { SqlAdapter } from '../../adapters/adapter.ts'
import type { Naming } from '../migrations.ts'
import type { Runner } from '../runner.ts'
import type { OpenedFile } from './file.ts'
import type { Fragments } from './fragments.ts'
import type { Steps } from './steps.ts'

/** What the verbs of one database share. */
export interface Context<Tx> {
  readonly adapter: SqlAdapter<Tx>
  readonly naming: Naming
  readonly runner: Runner<Tx>
  readonly fragments: Fragments
  readonly file: OpenedFile
  readonly steps: Steps
  /** Of a synchronous driver: throws if the transaction is over. */
  assertOpen(tx: Tx): void
}
