import type { SqlAdapter, Statement } from '../../adapters/adapter.ts'
import type { OwnConnection } from '../../adapters/own-connection.ts'
import type { Store } from '../../protocol/store.ts'
import type { Naming } from '../migrations.ts'
import { withProtocol } from '../protocol-number.ts'
import { Runner } from '../runner.ts'
import { assess, readTopology } from '../topology.ts'
import { acquire, acquireStatements } from './acquire.ts'
import { administration, administrationStatements } from './administration.ts'
import { type Context, reader, readStatements, Server } from './context.ts'
import { enqueue, enqueueStatements } from './enqueue.ts'
import { explain } from './errors.ts'
import { fragmentsFor } from './fragments.ts'
import { gateStatements, gates } from './gates.ts'
import { guard, guardStatements } from './guard.ts'
import { markStatements, marks } from './marks.ts'
import { migrate } from './migrate.ts'
import { promoter, promoteStatements } from './promote.ts'
import { release, releaseStatements } from './release.ts'
import { renew, renewStatements } from './renew.ts'
import { createStatements, semaphores } from './semaphores.ts'
import { sessions } from './sessions.ts'
import { stepper, stepStatements } from './steps.ts'
import { tokenStatements } from './token-after.ts'
import { waitStatements, waits } from './waits.ts'
import { within, withinStatements } from './within.ts'

/** All statements on the tables of locks, by name. */
export function mysqlStatements(naming: Naming) {
  const fragments = fragmentsFor(naming)
  return {
    ...acquireStatements(fragments),
    ...withinStatements(fragments),
    ...gateStatements(fragments),
    ...enqueueStatements(fragments),
    ...promoteStatements(fragments),
    ...releaseStatements(fragments),
    ...renewStatements(fragments),
    ...guardStatements(fragments),
    ...tokenStatements(fragments),
    ...readStatements(fragments),
    ...administrationStatements(fragments),
    ...waitStatements(fragments),
    ...markStatements(fragments),
    ...stepStatements(fragments),
    ...createStatements(fragments),
  }
}

/**
 * One lock is one statement, where that can tell what it did. Many locks are one statement, too, and a look at what became
 * of each of them: no statement here answers with rows that it changed.
 */
export function mysqlStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming, own: OwnConnection): Store<Tx> {
  const fragments = fragmentsFor(naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, fragments.table), own)
  const server = new Server((query) => runner.keep(query))
  const parts = { runner: runner as Runner<never>, server, fragments }
  const read = reader(parts)
  const context: Context<Tx> = { adapter, naming, own, runner, fragments, server, read, steps: stepper(parts) }
  // These know of no transaction.
  const outside = context as Context<never>
  const promotion = promoter(outside)
  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,
    guardsStopRenewal: true,
    acquire: acquire(outside),
    ...within(context),
    ...gates(outside),
    ...enqueue(outside),
    promote: promotion.promote,
    ...release(context, promotion),
    renew: renew(outside),
    ...guard(context),
    ...semaphores(outside),
    ...administration(outside),
    ...waits(outside),
    ...marks(context),
    ...sessions(outside),
    async assess(beside = false) {
      // The pool's sessions take the locks, and its driver's answers are what will be read; what another one says is not kept.
      const run = (query: Statement) => (beside ? runner.keep(query) : runner.run(query))
      const topology = beside ? await readTopology('mysql', run) : await server.ask(run)
      return withProtocol(assess(topology), 'mysql', naming, run)
    },
    ...migrate(outside),
  }
}
