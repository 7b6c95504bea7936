import type { Result, SqlAdapter, Statement } from '../../adapters/adapter.ts'
import type { OwnConnection } from '../../adapters/own-connection.ts'
import { checkRow, otherShape, toBoolean, toNumber } from '../../adapters/shape.ts'
import type { Store } from '../../protocol/store.ts'
import { isIdentifier, type Naming } from '../migrations.ts'
import { withProtocol } from '../protocol-number.ts'
import { Runner } from '../runner.ts'
import { assess, readTopology } from '../topology.ts'
import { acquire, acquireStatements } from './acquire.ts'
import { administration, administrationStatements } from './administration.ts'
import type { Context } from './context.ts'
import { enqueue, enqueueStatements } from './enqueue.ts'
import { explain } from './errors.ts'
import { fragmentsFor } from './fragments.ts'
import { gateStatements, gates } from './gates.ts'
import { guard, guardStatements } from './guard.ts'
import { markStatements, marks } from './marks.ts'
import { migrate } from './migrate.ts'
import { promote, promoteStatements } from './promote.ts'
import { release, releaseStatements } from './release.ts'
import { renew, renewStatements } from './renew.ts'
import { sessions } from './sessions.ts'
import { waitStatements, waits } from './waits.ts'
import { withdraw, withdrawStatements } from './withdraw.ts'
import { within, withinStatements } from './within.ts'

/** All statements on the tables of locks, by name. */
export function postgresStatements(naming: Naming) {
  const fragments = fragmentsFor(naming)
  return {
    ...acquireStatements(fragments),
    ...withinStatements(fragments),
    ...gateStatements(fragments),
    ...enqueueStatements(fragments),
    ...withdrawStatements(fragments),
    ...promoteStatements(fragments),
    ...releaseStatements(fragments),
    ...renewStatements(fragments),
    ...guardStatements(fragments),
    ...administrationStatements(fragments),
    ...waitStatements(fragments),
    ...markStatements(fragments),
  }
}

export function postgresStore<Tx>(adapter: SqlAdapter<Tx>, naming: Naming, own: OwnConnection): Store<Tx> {
  let fragments = fragmentsFor(naming)
  const runner = new Runner(adapter, (error, inTransaction) => explain(error, inTransaction, fragments.table), own)
  const context: Context<Tx> = {
    adapter,
    naming,
    own,
    runner,
    get fragments() {
      return fragments
    },
  }
  // These know of no transaction.
  const outside = context as Context<never>
  return {
    synchronous: adapter.synchronous ?? false,
    single: adapter.single ?? false,
    acquire: acquire(outside),
    ...within(context),
    ...gates(outside),
    enqueue: enqueue(outside),
    withdraw: withdraw(outside),
    promote: promote(outside),
    ...release(context),
    renew: renew(outside),
    ...guard(context),
    ...administration(outside),
    ...waits(outside),
    ...marks(context),
    ...sessions(outside),
    async assess(beside = false) {
      const run = (query: Statement) => (beside ? runner.keep(query) : runner.run(query))
      await checkShape(run)
      const topology = await readTopology('postgres', run, fragments.table)
      const assessment = await withProtocol(assess(topology, adapter.single === true), 'postgres', naming, run)
      // From now on the tables are named by their schema: a transaction of the caller's may have another search_path.
      if (assessment.refusal === null && naming.schema === undefined) {
        const schema = await schemaOf(run, fragmentsFor(naming).table)
        if (isIdentifier(schema)) fragments = fragmentsFor({ ...naming, schema })
      }
      return assessment
    },
    migrate: migrate(outside),
  }
}

/** Before a lock depends on it: whether booleans, numbers and texts come back as such. */
async function checkShape(run: (query: Statement) => Promise<Result>): Promise<void> {
  const text = "select true as yes, false as no, 7 as i, 0.5::float8 as remaining, '7'::text as token"
  const [row = {}] = (await run({ text, values: [] })).rows
  const { yes, no, i, remaining, token } = checkRow(row, 'token')
  if (token !== '7') throw otherShape('text', token)
  if (!toBoolean(yes) || toBoolean(no)) throw otherShape('true and false', [yes, no])
  if (toNumber(i) !== 7 || toNumber(remaining) !== 0.5) throw otherShape('7 and 0.5', [i, remaining])
}

/** Where search_path leads to the table; null if there is none yet. */
async function schemaOf(run: (query: Statement) => Promise<Result>, table: string): Promise<unknown> {
  const text = `
    select n.nspname::text as schema
    from pg_class as c join pg_namespace as n on n.oid = c.relnamespace
    where c.oid = to_regclass($1::text)`
  return (await run({ text, values: [table] })).rows[0]?.schema ?? null
}
