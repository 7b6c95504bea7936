import { sql } from 'kysely'
import type { GuardResult, Hold, Store } from '../../protocol/store.ts'
import { noTransaction } from '../failures.ts'
import { type Context, inBatches } from './context.ts'
import { batched, type Fragments, now } from './fragments.ts'
import { tokenAfter } from './token-after.ts'
import { type AskedLease, toAskedLease } from './values.ts'

export function guardStatements({ askedLocks }: Fragments) {
  return {
    // A write, not a locking read: on Galera and in multi-primary groups only a write takes part in certification. It waits
    // for the rows, one by one in the order of `asked`.
    guard: batched<AskedLease>(sql`
        update ${askedLocks}
        set l.expires_at = greatest(l.expires_at, ${now} + asked.ttl * 1000) + 0 * last_insert_id(l.token),
            l.handed_to = null
        where l.owner = asked.owner and l.token = asked.token and l.expires_at > ${now}`),
  }
}

export function guard<Tx>(context: Context<Tx>): Pick<Store<Tx>, 'guard' | 'query'> {
  const { adapter, runner, fragments } = context
  const statements = guardStatements(fragments)

  async function guardBatch(tx: Tx, holds: readonly (Hold & { readonly ttlMs: number })[]): Promise<GuardResult[]> {
    const result = await runner.runIn(tx, statements.guard(holds.map(toAskedLease)), (answer) => answer)
    if (result.inTransaction === false) throw noTransaction('guard(tx)')
    if (holds.length === 1) return [(await tokenAfter(context, tx, holds[0]!.name, result)) === 0n ? 'lost' : 'stands']
    if (Number(result.affectedRows) === holds.length) return holds.map(() => 'stands')
    const results: GuardResult[] = []
    for (const hold of holds) results.push(...(await guardBatch(tx, [hold])))
    return results
  }

  return {
    guard: (tx, holds) => inBatches(holds, (batch) => guardBatch(tx, batch)),

    async query(tx, query) {
      return (await adapter.queryIn(tx, { ...query, callers: true })).rows
    },
  }
}
