import { sql } from 'kysely'
import type { Gate, Store } from '../../protocol/store.ts'
import type { Context } from './context.ts'
import { ASKED, batched, type Fragments, now } from './fragments.ts'
import { bytes } from './values.ts'

/** A process that closes a gate opens it again; should it be gone, the gate opens after that time. */
const GATE_MS = 1000

export function gateStatements({ gates }: Fragments) {
  return {
    closeGates: batched<{ name: Buffer; closer: Buffer }>(sql`
        insert into ${gates} (name, closed_until, closed_by)
        select asked.name, ${now} + ${sql.lit(GATE_MS)} * 1000, asked.closer from ${ASKED} as asked
        on duplicate key update closed_until = ${now} + ${sql.lit(GATE_MS)} * 1000, closed_by = asked.closer`),

    openGates: batched<{ name: Buffer; closer: Buffer }>(sql`
        update ${ASKED} as asked straight_join ${gates} as g force index (primary) on g.name = asked.name
        set g.closed_until = ${now}
        where g.closed_by = asked.closer`),
  }
}

export function gates({ runner, fragments }: Context<never>): Pick<Required<Store<never>>, 'closeGates' | 'openGates'> {
  const statements = gateStatements(fragments)
  const toRows = (asked: readonly Gate[]) => asked.map(({ name, by }) => ({ name: bytes(name), closer: bytes(by) }))
  return {
    async closeGates(asked) {
      await runner.keep(statements.closeGates(toRows(asked)))
    },
    async openGates(asked) {
      await runner.keep(statements.openGates(toRows(asked)))
    },
  }
}
