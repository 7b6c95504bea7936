import type { SqlAdapter, Statement } from '../../adapters/adapter.ts'
import { LockError } from '../../base/errors.ts'
import type { Store } from '../../protocol/store.ts'
import { applyPending, historyStatement, type Naming, tableName } from '../migrations.ts'
import { withProtocol } from '../protocol-number.ts'
import { Runner } from '../runner.ts'
import { assess, readTopology } from '../topology.ts'
import { acquire, acquireStatements } from './acquire.ts'
import { administration, administrationStatements } from './administration.ts'
import type { Context } from './context.ts'
import { enqueue, enqueueStatements } from './enqueue.ts'
import { explain } from './errors.ts'
import { fileStatements, OpenedFile } from './file.ts'
import { fragmentsFor } from './fragments.ts'
import { guard, guardStatements } from './guard.ts'
import { markStatements, marks } from './marks.ts'
import { promote, promoteStatements } from './promote.ts'
import { renew, renewStatements } from './renew.ts'
import { shareStatements, shares } from './shares.ts'
import { Steps, stepStatements } from './steps.ts'
import { waitStatements, waits } from './waits.ts'

/** All statements on the tables of locks, by name. */
export function sqliteStatements(naming: Naming) {
  const fragments = fragmentsFor(naming)
  return {
    ...acquireStatements(fragments),
    ...enqueueStatements(fragments),
    ...promoteStatements(fragments),
    ...renewStatements(fragments),
    ...guardStatements(fragments),
    ...shareStatements(fragments),
    ...stepStatements(fragments),
    ...administrationStatements(fragments),
    ...waitStatements(fragments),
    ...markStatements(fragments),
    ...fileStatements,
  }
}

export function sqliteStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming): Store<Tx> {
  const fragments = fragmentsFor(naming)
  const { table } = fragments
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, table))
  const file = new OpenedFile(runner as Runner<never>)

  function assertOpen(tx: Tx): void {
    try {
      adapter.queryIn(tx, { text: 'select 1', values: [] })
    } catch (cause) {
      throw new LockError(
        'INVALID_ARGUMENT',
        'the transaction is over: those of a synchronous driver take no async callback. Do not await in it, or say BEGIN IMMEDIATE and COMMIT yourself',
        { cause },
      )
    }
  }

  const steps = new Steps(runner as Runner<never>, file, fragments)

  const context: Context<Tx> = { adapter, naming, runner, fragments, file, steps, assertOpen }
  // These know of no transaction.
  const outside = context as Context<never>
  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,
    ...acquire(context),
    ...enqueue(outside),
    ...promote(context),
    renew: renew(outside),
    ...guard(context),
    ...shares(context),
    ...(adapter.synchronous && { assertOpen }),
    ...administration(outside),
    ...waits(outside),
    ...marks(context),
    changingFile: () => file.changing(),

    async openSession() {
      throw new LockError('UNSUPPORTED', "takeover: 'session' needs sessions, which SQLite has none of; use 'expiry'")
    },

    async assess() {
      const run = (query: Statement) => runner.run(query)
      return withProtocol(assess(await readTopology('sqlite', run)), 'sqlite', naming, run)
    },

    async migrate() {
      try {
        return await adapter.reserve(async (connection) => {
          const run = (text: string) => connection.query({ text, values: [] })
          await run('begin immediate')
          try {
            const history = tableName('sqlite', 'migrations', naming)
            await run(historyStatement('sqlite', naming))
            const done = new Set((await run(`select name from ${history}`)).rows.map((row) => row.name))
            const applied = await applyPending('sqlite', naming, done, run)
            await run('commit')
            return applied
          } catch (error) {
            await run('rollback')
            throw error
          }
        })
      } catch (error) {
        throw error instanceof LockError ? error : explain(error, false, table)
      }
    },
  }
}
