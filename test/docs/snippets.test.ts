import { execFile } from 'node:child_process'
import { mkdir, writeFile } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { promisify } from 'node:util'
import ts from 'typescript'
import { describe, expect, it } from 'vitest'
import { compiled } from '../compiled.ts'
import { documents, root, type Snippet, snippetsOf } from './markdown.ts'

const WORLD = 'world.ts'
const ELSEWHERE = 'elsewhere.ts'
const LONGEST_RUN_MS = 20_000

/** A snippet as a module beside this one. */
interface Module {
  readonly title: string
  /** Where it would be. */
  readonly path: string
  /** With lines where the document has them. */
  readonly text: string
  readonly runs: boolean
}

const modules = (await documents()).flatMap(snippetsOf).map(toModule)

/** Takes what is not its own from an application that snippets have in common. */
function toModule({ document, line, code }: Snippet): Module {
  const path = join(root, 'test/docs', `${basename(document, '.md')}-${line}.ts`)
  const snippet = parse(path, code)
  const own = declaredBy(snippet)
  const used = usedBy(snippet)
  const from = (file: string) => {
    const names = exportsOf(file).filter((name) => used.has(name) && !own.has(name))
    return names.length === 0 ? '' : `import { ${names.join(', ')} } from './${file}';`
  }
  const elsewhere = from(ELSEWHERE)
  const ofSources = code
    .replaceAll(/from 'rowlock'/g, "from '../../src/index.ts'")
    .replaceAll(/from 'rowlock\/(node-cron)'/g, "from '../../src/frameworks/$1.ts'")
    .replaceAll(/from 'rowlock\/(.+)'/g, "from '../../src/adapters/$1.ts'")
  // The line with the fence has room for them.
  const text = `${'\n'.repeat(line - 2)}${from(WORLD)}${elsewhere}\n${ofSources}`
  return { title: `${document}:${line}`, path, text, runs: elsewhere === '' }
}

/** The names of its own. */
function declaredBy(snippet: ts.SourceFile): Set<string> {
  const names = new Set<string>()
  const add = (name: ts.BindingName) => {
    if (ts.isIdentifier(name)) names.add(name.text)
    else for (const element of name.elements) if (ts.isBindingElement(element)) add(element.name)
  }
  for (const each of snippet.statements) {
    if (ts.isVariableStatement(each)) for (const { name } of each.declarationList.declarations) add(name)
    if (ts.isFunctionDeclaration(each) && each.name !== undefined) add(each.name)
    const bindings = ts.isImportDeclaration(each) ? each.importClause : undefined
    if (bindings?.name !== undefined) add(bindings.name)
    if (bindings?.namedBindings !== undefined && ts.isNamedImports(bindings.namedBindings)) {
      for (const { name } of bindings.namedBindings.elements) add(name)
    }
  }
  return names
}

/** All names but those of properties. */
function usedBy(snippet: ts.SourceFile): Set<string> {
  const names = new Set<string>()
  const visit = (node: ts.Node, parent: ts.Node) => {
    const isOfProperty =
      (ts.isPropertyAccessExpression(parent) || ts.isPropertyAssignment(parent)) && parent.name === node
    if (ts.isIdentifier(node) && !isOfProperty) names.add(node.text)
    ts.forEachChild(node, (child) => visit(child, node))
  }
  visit(snippet, snippet)
  return names
}

function exportsOf(file: string): string[] {
  const text = ts.sys.readFile(join(root, 'test/docs', file))!
  return [...text.matchAll(/^export (?:declare )?(?:const|(?:async )?function) (\w+)/gm)].map(([, name]) => name!)
}

function parse(path: string, text: string): ts.SourceFile {
  return ts.createSourceFile(path, text, ts.ScriptTarget.ES2023, true)
}

function optionsOf(): ts.CompilerOptions {
  const { config } = ts.readConfigFile(join(root, 'tsconfig.json'), ts.sys.readFile)
  // Snippets show what is there to be used.
  return { ...ts.parseJsonConfigFileContent(config, ts.sys, root).options, noUnusedLocals: false }
}

/** What the compiler says, by the lines of the documents. */
function complaints(): string[] {
  const options = optionsOf()
  const host = ts.createCompilerHost(options)
  const texts = new Map(modules.map(({ path, text }) => [path, text]))
  const { fileExists, readFile, getSourceFile } = host
  host.fileExists = (path) => texts.has(path) || fileExists.call(host, path)
  host.readFile = (path) => texts.get(path) ?? readFile.call(host, path)
  host.getSourceFile = (path, ...rest) =>
    texts.has(path) ? parse(path, texts.get(path)!) : getSourceFile.call(host, path, ...rest)
  const program = ts.createProgram([...texts.keys()], options, host)
  return modules.flatMap(({ path, title }) => {
    const file = program.getSourceFile(path)!
    const found = [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)]
    return found.map(({ start, messageText }) => {
      const { line } = file.getLineAndCharacterOfPosition(start!)
      return `${title.replace(/:\d+$/, '')}:${line + 1}: ${ts.flattenDiagnosticMessageText(messageText, '\n')}`
    })
  })
}

/** As its reader would, in a process of its own, which has to end by itself. */
async function run({ path, text }: Module): Promise<void> {
  const target = compiled(pathToFileURL(path))
  const { outputText } = ts.transpileModule(text, { compilerOptions: { ...optionsOf(), module: ts.ModuleKind.ESNext } })
  await mkdir(dirname(target), { recursive: true })
  await writeFile(target, outputText)
  const { stderr } = await promisify(execFile)(process.execPath, [target], { cwd: root, timeout: LONGEST_RUN_MS })
  expect(stderr).toBe('')
}

describe('the snippets of the documents', () => {
  it('are found', () => {
    expect(modules.length).toBeGreaterThan(10)
    expect(modules.filter(({ runs }) => runs).length).toBeGreaterThan(5)
  })

  it('compile', () => expect(complaints()).toEqual([]))

  describe('run, if SQLite or memory is all that they need', () => {
    it.each(modules.filter(({ runs }) => runs))('$title', run)
  })
})
