import { BESIDES, type Engine, sentOn } from './besides.ts'
import { REASONS, REASONS_BESIDES } from './reasons.ts'
import { type Sent, STATEMENTS } from './statements.ts'

export const NAMES: Readonly<Record<Engine, string>> = {
  postgres: 'PostgreSQL',
  mysql: 'MySQL and MariaDB',
  sqlite: 'SQLite',
}
export const engines = Object.keys(NAMES) as Engine[]

/** Longest line of a comment. */
const WIDTH = 120

/** The file that has all statements of an engine. */
export function fileOf(engine: Engine): URL {
  return new URL(`${engine}.sql`, import.meta.url)
}

/** All statements of an engine as the database gets them, each under its name and the reason why it is safe. */
export async function golden(engine: Engine): Promise<string> {
  const reasons: Readonly<Record<string, string>> = REASONS[engine]
  const besides: Readonly<Record<string, string>> = REASONS_BESIDES[engine]
  const compiled = Object.entries<Sent>(STATEMENTS[engine]).map(([name, sent]) => [
    comment(name),
    comment(reasons[name]!),
    ...linesOf(sent.text),
    ...ofTwo(sent),
  ])
  const others = Object.entries(BESIDES[engine]).map(async ([occasion, run]) => {
    const texts = (await sentOn(engine, run)).map((text) => linesOf(text).join('\n'))
    return [comment(occasion), comment(besides[occasion]!), texts.join('\n;\n')]
  })
  const blocks = [
    [
      comment(`${NAMES[engine]}: what the database gets, by the names that statements have in src/engines/${engine}.`),
      comment('Written by `npm run sql`, with the reasons from reasons.ts.'),
    ],
    ...compiled,
    [comment('What is not compiled but written where it is sent; several texts in turn are parted by semicolons.')],
    ...(await Promise.all(others)),
  ]
  return `${blocks.map((lines) => lines.join('\n')).join('\n\n')}\n`
}

/** The lines without what is blank, and without the indentation that the statement has in the source. */
function linesOf(text: string, indentation = indentationOf(text)): string[] {
  let before = 0
  const toDepth = (line: string, index: number): string => {
    const depth = index === 0 ? 0 : depthOf(line) - indentation
    // A fragment from elsewhere goes on with the line that it is in.
    if (depth < 0) return ' '.repeat(before + 2) + line.trim()
    before = depth
    return ' '.repeat(depth) + line.trim()
  }
  return text
    .split('\n')
    .map(toDepth)
    .filter((line) => line.trim() !== '')
}

/** That of its first line; or the least of the others, if the first one begins where the text does. */
function indentationOf(text: string): number {
  const [first = '', ...others] = text.split('\n').filter((line) => line.trim() !== '')
  return text.startsWith('\n') || others.length === 0 ? depthOf(first) : Math.min(...others.map(depthOf))
}

function depthOf(line: string): number {
  return line.length - line.trimStart().length
}

/** The lines that differ where two locks are asked for in one statement. */
function ofTwo({ text, ofMany }: Sent): string[] {
  if (ofMany === undefined) return []
  const before = linesOf(text)
  const lines = linesOf(ofMany(2), indentationOf(text))
  if (lines.length !== before.length) throw new Error('a statement of two has other lines than that of one')
  return [comment('Of two:'), ...lines.filter((line, index) => line !== before[index])]
}

function comment(text: string): string {
  const lines = ['--']
  for (const word of text.split(' ')) {
    const longer = `${lines.at(-1)} ${word}`
    if (longer.length > WIDTH) lines.push(`-- ${word}`)
    else lines[lines.length - 1] = longer
  }
  return lines.join('\n')
}
