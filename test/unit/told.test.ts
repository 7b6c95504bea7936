import { expect, it } from 'vitest'
import { Told } from '../../src/process/told.ts'

it('knows what has been told, also out of order', () => {
  const told = new Told()
  told.add(7n, false)
  expect([5n, 7n, 8n].map((token) => told.has(token))).toEqual([false, true, false])
  told.add(5n, false)
  expect([4n, 5n, 6n, 7n].map((token) => told.has(token))).toEqual([false, true, false, true])
})

it('takes all before an exclusive hold for over', () => {
  const told = new Told()
  told.add(7n, false)
  told.add(9n, true)
  expect([6n, 7n, 9n, 10n].map((token) => told.has(token))).toEqual([true, true, true, false])
})

it('forgets the oldest, and takes them for told', () => {
  const told = new Told()
  for (let token = 10n; token < 100_000n; token += 2n) told.add(token, false)
  expect(told.has(11n)).toBe(true)
  expect(told.has(99_997n)).toBe(false)
  expect(told.has(99_998n)).toBe(true)
})
