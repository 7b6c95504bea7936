import { sql } from 'kysely'
import type { Result } from '../../adapters/adapter.ts'
import { statement } from '../statement.ts'
import type { Context } from './context.ts'
import { engine, type Fragments } from './fragments.ts'
import { bytes, tokenOf } from './values.ts'

export function tokenStatements({ locks }: Fragments) {
  return {
    token: statement<{ name: Buffer }>(engine, (p) => sql`select token from ${locks} where name = ${p.name}`),
  }
}

/**
 * What last_insert_id() was set to; 0 if no row was reached. Where the driver does not pass that on, it would have to be asked
 * for, and what the caller inserts meanwhile sets it, too: there the row is read, which this transaction has locked.
 */
export async function tokenAfter<Tx>(
  { adapter, runner, fragments }: Pick<Context<Tx>, 'adapter' | 'runner' | 'fragments'>,
  tx: Tx,
  name: string,
  result: Result,
): Promise<bigint> {
  if (adapter.tellsNoInsertId !== true) return tokenOf(result)
  if (Number(result.affectedRows ?? 0) === 0) return 0n
  const query = tokenStatements(fragments).token({ name: bytes(name) })
  return runner.runIn(tx, query, ({ rows: [row] }) => BigInt(row?.token as string))
}
