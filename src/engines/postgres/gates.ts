import { sql } from 'kysely'
import type { Gate, Store } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { type Fragments, notDurable } from './fragments.ts'
import { array } from './rows.ts'

/** A process that closes a gate opens it again; should it be gone, the gate opens after that time. */
const GATE_MS = 1000

export function gateStatements({ gates }: Fragments) {
  return {
    // Nothing depends on these but fairness, so their commits need not wait for the disk. They wait for rows, in one order.
    closeGates: statement<{ names: string; closers: string }>(
      'postgres',
      (p) => sql`
        insert into ${gates} as g (name, closed_until, closed_by)
        select name, clock_timestamp() + ${sql.lit(GATE_MS)} * interval '1 ms', closer
        from unnest(${p.names}::text::text[], ${p.closers}::text::text[]) as a(name, closer)
        order by name collate "C"
        on conflict (name) do update set closed_until = excluded.closed_until, closed_by = excluded.closed_by
        returning ${notDurable}`,
    ),

    openGates: statement<{ names: string; closers: string }>(
      'postgres',
      (p) => sql`
        update ${gates} as g set closed_until = clock_timestamp()
        from unnest(${p.names}::text::text[], ${p.closers}::text::text[]) as a(name, closer)
        where g.name = a.name and g.closed_by = a.closer
        returning ${notDurable}`,
    ),
  }
}

export function gates(context: Context<never>): Pick<Required<Store<never>>, 'closeGates' | 'openGates'> {
  const { runner } = context
  const statements = compiled(context, gateStatements)
  const toValues = (asked: readonly Gate[]) => ({
    names: array(asked.map(({ name }) => name)),
    closers: array(asked.map(({ by }) => by)),
  })
  return {
    async closeGates(asked) {
      await runner.keep(statements().closeGates(toValues(asked)))
    },
    async openGates(asked) {
      await runner.keep(statements().openGates(toValues(asked)))
    },
  }
}
