import { sql } from 'kysely'
import { toBoolean } from '../../adapters/shape.ts'
import { wentTo } from '../../protocol/ids.ts'
import type { Store, Withdrawal, WithdrawalResult } from '../../protocol/store.ts'
import { ofEachName } from '../kinds.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { type Fragments, few, unseen } from './fragments.ts'
import { inOrder, numbered, type Row, toHandedOver } from './rows.ts'

export function withdrawStatements({ locks, holders, promotable, rowOf }: Fragments) {
  return {
    // Whoever finds the row changed since the statement began is still there, and asks again.
    withdraw: statement<{ asked: string }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from json_to_recordset(${unseen(p.asked)}::json) as a(i int, name text, tickets json)
          order by name collate "C"
          ${few}
        ), open as (
          select a.*, l.ctid as place
          from asked as a, lateral (
            select l.ctid from ${locks} as l where l.name = a.name and l.queue is not null for no key update skip locked
          ) as l
          ${few}
        ), left_behind as (
          update ${locks} as l
          set queue = (
            select jsonb_agg(case when w.count is null then t else jsonb_set(t, '{n}', to_jsonb((t->>'n')::int - w.count)) end
                             order by position)
            from jsonb_array_elements(l.queue) with ordinality as q(t, position)
            left join json_to_recordset(a.tickets) as w(ticket text, count int) on w.ticket = t->>'id'
            where w.count is null or (t->>'n')::int > w.count)
          from open as a
          where l.ctid = a.place
          returning l.*
        )
        select a.i, ${holders} as holders, ${promotable} as promotable, l.queue is not null and not l.found as locked
        from asked as a, lateral (
          select true as found, l.* from left_behind as l where l.name = a.name
          union all select false as found, l.* from ${rowOf(sql`a`)}
          limit 1
        ) as l`,
    ),
  }
}

export function withdraw(context: Context<never>): Store<never>['withdraw'] {
  const { runner } = context
  const statements = compiled(context, withdrawStatements)
  return (withdrawals) =>
    ofEachName(withdrawals, async (groups) => {
      const asked = groups.map((group) => ({
        name: group[0].name,
        tickets: group.map(({ ticket, count }) => ({ ticket, count })),
      }))
      const { rows } = await runner.keep(statements().withdraw({ asked: numbered(asked) }))
      return inOrder(rows, groups.length).map((row, index) => toResults(groups[index]!, row))
    })
}

/** Of all that leave one lock. */
function toResults(withdrawals: readonly [Withdrawal, ...Withdrawal[]], row: Row | undefined): WithdrawalResult[] {
  if (row === undefined) return withdrawals.map(() => ({ withdrawn: true, grants: [] }))
  const [{ name }] = withdrawals
  const withdrawn = !toBoolean(row.locked)
  const handedOver = toHandedOver(name, row.holders)
  // What nobody holds is on its way to somebody already.
  const promotable = withdrawn && row.holders !== null && toBoolean(row.promotable)
  return withdrawals.map(({ ticket }) => ({
    withdrawn,
    grants: handedOver.filter(({ owner }) => wentTo(owner, ticket)),
    ...(promotable && { promotable }),
  }))
}
