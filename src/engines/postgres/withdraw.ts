import { sql } from 'kysely'
import { toBoolean } from '../../adapters/shape.ts'
import { wentTo } from '../../protocol/ids.ts'
import type { Store, WithdrawalResult } from '../../protocol/store.ts'
import { statement } from '../statement.ts'
import { type Context, compiled } from './context.ts'
import { type Fragments, few, unseen } from './fragments.ts'
import { inOrder, numbered, toHandedOver, toHolders } from './rows.ts'

export function withdrawStatements({ locks, holders, promotable, rowOf }: Fragments) {
  return {
    // Whoever finds the row changed since the statement began is still there, and asks again.
    withdraw: statement<{ withdrawals: string }>(
      'postgres',
      (p) => sql`
        with asked as materialized (
          select * from json_to_recordset(${unseen(p.withdrawals)}::json) as a(i int, name text, ticket text, count int)
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
            select jsonb_agg(case when t->>'id' = a.ticket then jsonb_set(t, '{n}', to_jsonb((t->>'n')::int - a.count)) else t end
                             order by position)
            from jsonb_array_elements(l.queue) with ordinality as q(t, position)
            where t->>'id' <> a.ticket or (t->>'n')::int > a.count)
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
  return async (withdrawals) => {
    const { rows } = await runner.keep(statements().withdraw({ withdrawals: numbered(withdrawals) }))
    return inOrder(rows, withdrawals.length).map((row, index): WithdrawalResult => {
      if (row === undefined) return { withdrawn: true, grants: [] }
      const { name, ticket } = withdrawals[index]!
      const withdrawn = !toBoolean(row.locked)
      const holders = toHolders(name, row.holders)
      const grants = toHandedOver(name, row.holders).filter(({ owner }) => wentTo(owner, ticket))
      // What nobody holds is on its way to somebody already.
      const promotable = withdrawn && holders.length > 0 && toBoolean(row.promotable)
      return { withdrawn, grants, ...(promotable && { promotable }) }
    })
  }
}
